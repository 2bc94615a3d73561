//! Block pictures in a terminal.

use crate::demo::results::BlockPicture;

/// Widest drawing, in characters.
const WIDTH: usize = 96;

/// Draws a picture with two query blocks a line; wide ones are scaled down, shades then say how much is attended.
pub fn draw(picture: &BlockPicture) -> String {
    let scale = picture.columns.div_ceil(WIDTH).max(1);
    let lines = picture.rows.div_ceil(2 * scale);
    let columns = picture.columns.div_ceil(scale);
    let mut text = String::new();
    for line in 0..lines {
        let cells = (0..columns).map(|column| {
            if scale == 1 {
                half_blocks(
                    picture.filled(2 * line..2 * line + 1, column..column + 1),
                    picture.filled(2 * line + 1..2 * line + 2, column..column + 1),
                )
            } else {
                shade(picture.filled(2 * scale * line..2 * scale * (line + 1), scale * column..scale * (column + 1)))
            }
        });
        let drawn: String = cells.collect();
        text += "  ";
        text += drawn.trim_end();
        text += "\n";
    }
    text
}

fn half_blocks(upper: f32, lower: f32) -> char {
    match (upper > 0.0, lower > 0.0) {
        (true, true) => '█',
        (true, false) => '▀',
        (false, true) => '▄',
        (false, false) => ' ',
    }
}

fn shade(part: f32) -> char {
    [' ', '░', '▒', '▓', '█'][(part * 4.0).ceil() as usize]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_pictures_show_every_block() {
        let picture = BlockPicture::from_bytes(&[1, 0, 0, 1, 1, 0, 1, 0, 1], 3, 3);
        assert_eq!(draw(&picture), "  █▄\n  ▀ ▀\n");
    }

    #[test]
    fn wide_pictures_are_shaded() {
        let columns = 4 * WIDTH;
        let picture =
            BlockPicture::from_bytes(&(0..columns).map(|j| u8::from(j % 4 < 2)).collect::<Vec<_>>(), 1, columns);
        assert_eq!(draw(&picture).trim(), "▒".repeat(WIDTH));
        assert_eq!(draw(&BlockPicture::from_bytes(&[], 0, 0)), "");
    }
}
