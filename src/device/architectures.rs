//! Which devices a build serves, read from the architectures it names.

/// Whether a device of this compute capability runs something out of `built`, e.g. `80;90a;80+PTX`.
///
/// `NN` is machine code: same major, no newer minor. `NNa` is bound to one capability. `NN+PTX` is compiled by the
/// driver for that capability and all above.
pub(super) fn serve(built: &str, (major, minor): (u32, u32)) -> bool {
    built.split([';', ',', ' ']).filter(|entry| !entry.is_empty()).any(|entry| {
        let (entry, ptx) = match entry.strip_suffix("+PTX") {
            Some(rest) => (rest, true),
            None => (entry, false),
        };
        let digits = entry.trim_end_matches(|c: char| c.is_ascii_lowercase());
        let suffix = &entry[digits.len()..];
        let Ok(number) = digits.parse::<u32>() else { return false };
        let (least_major, least_minor) = (number / 10, number % 10);
        match (suffix, ptx) {
            ("", true) => (major, minor) >= (least_major, least_minor),
            ("", false) | ("f", _) => major == least_major && minor >= least_minor,
            _ => (major, minor) == (least_major, least_minor),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::serve;

    #[test]
    fn capabilities() {
        for (built, capability, expected) in [
            ("80;90a;80+PTX", (8, 0), true),
            ("80;90a;80+PTX", (8, 9), true),
            ("80;90a;80+PTX", (9, 0), true),
            ("80;90a;80+PTX", (12, 0), true),
            ("80;90a;80+PTX", (7, 5), false),
            ("90a", (9, 0), true),
            ("90a", (10, 0), false),
            ("80", (9, 0), false),
            ("86", (8, 0), false),
            ("120+PTX", (12, 1), true),
            ("", (9, 0), false),
        ] {
            assert_eq!(serve(built, capability), expected, "{built} on {capability:?}");
        }
    }
}
