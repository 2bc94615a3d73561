//! The page: what was run, three figures, the plot, the table, the pictures, how to read them.

use super::{picture, plot};
use crate::demo::results::{Family, Results, Row};
use crate::failure::Result;
use maud::{DOCTYPE, Markup, PreEscaped, html};

/// The whole report as HTML.
pub fn render(results: &Results) -> Result<String> {
    let plot = plot::density_against_quality(results)?;
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                title { "lacuna: sparse attention on a real language model" }
                style { (PreEscaped(super::STYLE)) }
            }
            body {
                (heading(results))
                main {
                    (quality(results, &plot))
                    (table(results))
                    (maps(results))
                    (masks(results))
                    (reading(results))
                }
                footer { "Written by lacuna " (results.version) ". Everything on this page is inside this one file." }
            }
        }
    };
    Ok(page.into_string())
}

fn heading(results: &Results) -> Markup {
    let windows = if results.windows == 1 { "one window".to_owned() } else { format!("{} windows", results.windows) };
    html! {
        header {
            p.brand {
                (mark()) "lacuna" span { (results.version) }
            }
            h1 { "How much of its attention does a language model need?" }
            p.lede {
                "A small language model reads " (windows) " of " (grouped(results.window)) " bytes that it has never seen, "
                (results.rows.len()) " times over. Each time the same CUDA kernels compute its attention, and another rule "
                "decides which blocks of the past they look at."
            }
            dl.facts {
                div { dt { "Device" } dd { (results.device) br; small { (results.device_choice) } } }
                div { dt { "Model" } dd { (results.model) } }
                div { dt { "Text" } dd { (results.text) } }
            }
            div.figures { (figures(results)) }
        }
    }
}

/// The logo: a lower triangle with blocks left out.
pub fn mark() -> Markup {
    html! {
        svg viewBox="0 0 4 4" aria-hidden="true" {
            path fill="var(--line)" d="M0 0h1v1h1v1h1v1h1v1h-4z" {}
            path fill="var(--s2)" d="M0 0h1v2h-1zM1 1h1v2h-1zM0 3h1v1h-1zM2 2h1v1h-1zM3 3h1v1h-1zM2 3h1v1h-1z" {}
        }
    }
}

fn figures(results: &Results) -> Markup {
    let dense = &results.rows[0];
    let worst = results.rows.iter().max_by(|a, b| (a.error / a.error_bound).total_cmp(&(b.error / b.error_bound)));
    html! {
        div.card.figure {
            b { (bits(dense.bits_per_byte)) small { "bits per byte" } }
            p {
                "Dense attention, every key read."
                @if let Some(stated) = results.stated_bits_per_byte {
                    " The model's definition states " (bits(stated)) "."
                }
            }
        }
        @if let Some(row) = thriftiest(results) {
            div.card.figure {
                b { (percent(row.density)) small { "of the pairs" } }
                p {
                    @if row.family == Family::Oracle {
                        "would do, if one knew which: the " (row.settings) " reaches " (bits(row.bits_per_byte))
                        " bits per byte. It looks at the true attention map first, which no method can."
                    } @else {
                        "is the least that a rule here reads without losing quality: " (row.method) ", " (row.settings)
                        ", at " (bits(row.bits_per_byte)) " bits per byte."
                    }
                }
            }
        }
        @if let Some(row) = worst {
            div.card.figure {
                b { (scientific(row.error)) small { "largest error" } }
                p {
                    "against an f64 reference under the same mask, relative. Allowed is twice the error of the ideal bf16 "
                    "algorithm, here " (scientific(row.error_bound)) "."
                }
            }
        }
    }
}

/// The sparse row with the lowest density that predicts at least as well as dense.
fn thriftiest(results: &Results) -> Option<&Row> {
    let dense = results.rows[0].bits_per_byte;
    let as_good = results.rows[1..].iter().filter(|r| r.bits_per_byte <= dense);
    as_good.min_by(|a, b| a.density.total_cmp(&b.density))
}

fn quality(results: &Results, plot: &str) -> Markup {
    html! {
        section {
            h2 { "Density against quality" }
            p { "Left is cheaper, down is better. Numbers are rows of the table; the dashed line is dense attention." }
            div.card.plot {
                ul.legend {
                    @for family in Family::ALL {
                        @if results.rows.iter().any(|r| r.family == family) {
                            li class=(class(family)) { span.dot {} (describe(family)) }
                        }
                    }
                }
                div.scroll { (PreEscaped(plot)) }
            }
        }
    }
}

fn describe(family: Family) -> &'static str {
    match family {
        Family::Dense => "dense: every key",
        Family::Oracle => "oracle: the best blocks of the true attention map",
        Family::S2 => "S2: local and strided blocks",
        Family::Seer => "seer: blocks that a trained gate picks",
        Family::Pooled => "pooled: the best products of mean queries and mean keys, untrained",
        Family::Window => "window: the newest blocks",
        Family::Random => "random blocks",
    }
}

fn table(results: &Results) -> Markup {
    let dense = results.rows[0].bits_per_byte;
    html! {
        section {
            h2 { "Every run" }
            p {
                "Errors were measured on query head " (results.reference_head) " of layer " (results.reference_layer)
                " (counted from 0); everything else is over the whole model."
            }
            div.card.table {
                div.scroll {
                    table {
                        thead { tr {
                            th { "#" } th.text { "method" } th.text { "settings" } th { "density" } th { "bits per byte" }
                            th { "error against" br; "the reference" } th { "matrix work" br; "of dense" } th { "time" }
                        } }
                        tbody {
                            @for (i, row) in results.rows.iter().enumerate() {
                                tr class=(class(row.family)) {
                                    td { (i + 1) }
                                    td.text { span.name { span.dot {} (row.method) } }
                                    td.text.settings { (row.settings) }
                                    td { (percent(row.density)) (bar(row.density)) }
                                    td {
                                        (bits(row.bits_per_byte))
                                        small { @if i > 0 { (signed(row.bits_per_byte - dense)) } }
                                    }
                                    td { (scientific(row.error)) small { @if row.within_bound() { "ok" } @else { "too far" } } }
                                    td { @if let Some(work) = row.work { (percent(work)) (bar(work)) } @else { "not counted" } }
                                    td { (seconds(row.seconds)) }
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}

fn maps(results: &Results) -> Markup {
    html! {
        section {
            h2 { "Where the model looks" }
            p {
                "The dense attention of layer " (results.reference_layer) ", one picture a head. Each square is a block of "
                "queries (down) against a block of keys (across), as dark as its largest probability, from 0.01 to 1 on a "
                "logarithmic scale. What stays pale is what sparse attention can leave out."
            }
            div.card.maps.oracle {
                div.heads {
                    @for (h, map) in results.maps.iter().enumerate() {
                        figure {
                            (picture::map(map, &format!("attention map of head {h}")))
                            figcaption { "head " (h) }
                        }
                    }
                }
            }
        }
    }
}

fn masks(results: &Results) -> Markup {
    html! {
        section {
            h2 { "What each rule reads" }
            p { "The blocks that the kernels visited in layer " (results.reference_layer) ", as the plan on the device gave them, for each "
                "query head. A blank square is a block whose keys and values were never loaded." }
            div.gallery {
                @for (i, row) in results.rows.iter().enumerate() {
                    article class={ "card " (class(row.family)) } {
                        header {
                            h3 { (i + 1) ". " (row.method) }
                            span { (percent(row.density)) }
                            p { (row.settings) }
                        }
                        div.heads {
                            @for (h, mask) in row.masks.iter().enumerate() {
                                figure {
                                    (picture::mask(mask, &format!("blocks read by {} {}, head {h}", row.method, row.settings)))
                                    figcaption { "head " (h) }
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}

fn reading(results: &Results) -> Markup {
    let terms = [
        (
            "Density",
            "Visited (query, key) pairs over all causal pairs, averaged over layers. It is what a plan promises.",
        ),
        ("Bits per byte", "How many bits the model needs for the next byte of the text; its quality. Lower is better."),
        (
            "Matrix work",
            "Multiply-adds that the kernels' matrix instructions did, over those of the dense run; counted by the SIMT host. \
             It \
             lies a little above the density, since blocks on the diagonal are computed whole.",
        ),
        (
            "Error",
            "‖out − ref‖ / ‖ref‖ against attention in f64 under the same mask. It says whether the kernels compute the right \
             thing, not whether the mask is a good one: that is what bits per byte say.",
        ),
        (
            "Time",
            "Wall time in attention. On the SIMT host CUDA threads are emulated one by one on CPU cores, so compare rows with \
             each other, not with a GPU.",
        ),
        (
            "Oracle",
            "Reads the true attention map first and keeps the best blocks: no method could know them for free. It shows what a \
             learned selector such as SeerAttention's gate can hope for.",
        ),
    ];
    html! {
        section {
            h2 { "How to read this" }
            dl.reading {
                @for (term, text) in terms { div { dt { (term) } dd { (text) } } }
            }
        }
        section.prose {
            h2 { "Next" }
            p { "The same kernels on your own tensors and text:" }
            pre {
                "lacuna demo --window 4096 --text my.txt      " i { "# this report, longer and on another text" } "\n"
                "lacuna show --method s2                      " i { "# draw a plan in the terminal" } "\n"
                "lacuna attend --method s2 --input qkv.safetensors --output out.safetensors --check\n"
                "lacuna check                                 " i { "# every kernel against the reference" }
            }
        }
        @if results.device.starts_with("simt") {
            section.prose {
                p {
                    "This run needed no GPU: the kernels are CUDA C++, compiled by the host compiler for the SIMT host, which runs "
                    "every CUDA thread as a fiber and does what the PTX manual says each instruction does."
                }
            }
        }
    }
}

fn class(family: Family) -> String {
    family.name().to_lowercase()
}

fn bar(part: f64) -> Markup {
    html! { span.bar { i style=(format!("width:{:.1}%", (part * 100.0).clamp(0.0, 100.0))) {} } }
}

fn bits(x: f64) -> String {
    format!("{x:.4}")
}

fn percent(x: f64) -> String {
    format!("{:.1} %", x * 100.0)
}

fn signed(x: f64) -> String {
    // A real minus sign lines up with the plus.
    format!("{}{:.4}", if x < 0.0 { "−" } else { "+" }, x.abs())
}

fn seconds(x: f64) -> String {
    if x < 1.0 { format!("{:.0} ms", x * 1e3) } else { format!("{x:.2} s") }
}

/// `3.1e-3` as `3.1·10⁻³`.
fn scientific(x: f64) -> String {
    if x == 0.0 {
        return "0".to_owned();
    }
    let text = format!("{x:.1e}");
    let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let digit = |c: char| match c {
        '-' => '⁻',
        c => "⁰¹²³⁴⁵⁶⁷⁸⁹".chars().nth(c.to_digit(10).unwrap_or(0) as usize).unwrap_or(c),
    };
    format!("{mantissa}·10{}", exponent.chars().map(digit).collect::<String>())
}

fn grouped(n: usize) -> String {
    let digits = n.to_string();
    let mut text = String::new();
    for (i, c) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push('\u{202f}');
        }
        text.push(c);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_for_people() {
        assert_eq!(scientific(3.14e-3), "3.1·10⁻³");
        assert_eq!(grouped(1_049_728), "1\u{202f}049\u{202f}728");
        assert_eq!(signed(-0.0123), "−0.0123");
        assert_eq!(seconds(0.25), "250 ms");
    }
}
