//! The hot loop of a Hopper attention kernel, and how much of its softmax runs under matrix products.
//!
//! The loop issues S = Q K^T of one tile and O += P V of the tile before, waits for S alone (wait_group 1), takes the
//! softmax, and only then waits for O (wait_group 0). ptxas may move the second wait up, even before the first
//! exponential: the result is right, but nothing overlaps any more.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use crate::sass::Instruction;

/// Exponentials (MUFU.EX2) of the hot loop.
#[derive(Debug, PartialEq)]
pub struct HotLoop {
    pub exponentials: usize,
    /// Those issued while a group of products was in flight.
    pub overlapped: usize,
}

impl HotLoop {
    /// Of the innermost loops with two groups of products and exponentials, the one with most exponentials: tiles that
    /// are masked or half wanted may have a loop of their own, with smaller steps.
    pub fn find(code: &[Instruction]) -> Option<HotLoop> {
        let attends = |body: &BTreeSet<usize>| {
            let groups = body.iter().filter(|&&i| code[i].commits_group()).count();
            groups >= 2 && body.iter().any(|&i| code[i].is("MUFU.EX2"))
        };
        let loops: Vec<BTreeSet<usize>> = loops(code).into_iter().filter(attends).collect();
        let innermost =
            |body: &&BTreeSet<usize>| !loops.iter().any(|other| other.len() < body.len() && other.is_subset(body));
        let measured = loops.iter().filter(innermost).map(|body| measure(code, body));
        measured.max_by_key(|hot| (hot.exponentials, Reverse(hot.overlapped))) // of equals, the worst
    }
}

/// Follows the groups in flight through the body, in the order of addresses. The first of two rounds finds out how many
/// are in flight when an iteration starts.
fn measure(code: &[Instruction], body: &BTreeSet<usize>) -> HotLoop {
    let mut hot = HotLoop { exponentials: 0, overlapped: 0 };
    let mut in_flight = 0;
    for counts in [false, true] {
        for instruction in body.iter().map(|&i| &code[i]) {
            if instruction.commits_group() {
                in_flight += 1;
            } else if let Some(left) = instruction.waits_for_groups() {
                in_flight = in_flight.min(left);
            } else if counts && instruction.is("MUFU.EX2") {
                hot.exponentials += 1;
                hot.overlapped += usize::from(in_flight > 0);
            }
        }
    }
    hot
}

/// The natural loops, as indices of their instructions. A backward branch alone makes no loop: ptxas puts the spins of
/// mbarrier waits behind the code, and they jump back into the middle of it.
fn loops(code: &[Instruction]) -> Vec<BTreeSet<usize>> {
    let next = successors(code);
    let mut previous = vec![Vec::new(); code.len()];
    for (from, targets) in next.iter().enumerate() {
        targets.iter().for_each(|&to| previous[to].push(from));
    }
    let mut bodies = BTreeMap::<usize, BTreeSet<usize>>::new();
    for (from, targets) in next.iter().enumerate() {
        for &head in targets.iter().filter(|&&to| to <= from) {
            // Whatever gets to the branch comes through the head, or this is a way into the middle.
            let enters_elsewhere = head != 0 && reach(&next, 0, head).contains(&from);
            if !enters_elsewhere {
                bodies.entry(head).or_default().extend(reach(&previous, from, head));
            }
        }
    }
    bodies.into_values().collect()
}

/// What can be reached from `start` without going beyond `border`, which counts if it is met.
fn reach(next: &[Vec<usize>], start: usize, border: usize) -> BTreeSet<usize> {
    let mut seen = BTreeSet::from([start]);
    let mut open = vec![start];
    while let Some(at) = open.pop() {
        if at != border {
            open.extend(next[at].iter().copied().filter(|&to| seen.insert(to)));
        }
    }
    seen
}

/// What may run after each instruction. Calls come back, BSYNC stands right before the place where the branches meet
/// again; a target that is not listed is taken for the next one that is.
fn successors(code: &[Instruction]) -> Vec<Vec<usize>> {
    let of = |(index, instruction): (usize, &Instruction)| {
        let target = instruction.target().map(|address| code.partition_point(|other| other.address < address));
        let next = (!instruction.ends()).then_some(index + 1);
        target.into_iter().chain(next).filter(|&to| to < code.len()).collect()
    };
    code.iter().enumerate().map(of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sass;

    fn find(listing: &str) -> Option<HotLoop> {
        let functions = sass::functions(listing);
        HotLoop::find(functions.values().next().expect("the listing has a function"))
    }

    /// A listing of one instruction every 16 bytes.
    fn listing(instructions: &[&str]) -> String {
        let line = |(index, text): (usize, &&str)| format!("/*{:04x}*/ {text} ;\n", 16 * index);
        "Function : f\n".to_owned() + &instructions.iter().enumerate().map(line).collect::<String>()
    }

    const PRODUCTS: &str = "HGMMA.64x128x16.F32 R24, gdesc[UR8], R24, gsb0";
    const ONE_LEFT: &str = "WARPGROUP.DEPBAR.LE gsb0, 0x1";
    const NONE_LEFT: &str = "WARPGROUP.DEPBAR.LE gsb0, 0x0";
    const EXPONENTIAL: &str = "MUFU.EX2 R6, R6";

    // A tile of 64 x 128 a warpgroup: 64 exponentials a thread, and 2 for the rescaling of its two rows. The kernel has
    // a second, smaller loop, for masked tiles, which waits for every product.
    #[test]
    fn machine_code_that_overlaps_and_that_does_not() {
        let overlapped = find(include_str!("../fixtures/overlapped.sass"));
        assert_eq!(overlapped, Some(HotLoop { exponentials: 66, overlapped: 66 }));
        let hoisted = find(include_str!("../fixtures/hoisted.sass"));
        assert_eq!(hoisted, Some(HotLoop { exponentials: 66, overlapped: 0 }));
    }

    #[test]
    fn a_wait_in_the_middle_of_the_softmax_counts_half() {
        let code = [PRODUCTS, PRODUCTS, ONE_LEFT, EXPONENTIAL, NONE_LEFT, EXPONENTIAL, "@P0 BRA 0x0", "EXIT"];
        assert_eq!(find(&listing(&code)), Some(HotLoop { exponentials: 2, overlapped: 1 }));
    }

    #[test]
    fn groups_in_flight_at_the_end_of_an_iteration_are_so_at_the_start_of_the_next() {
        let code = [EXPONENTIAL, NONE_LEFT, PRODUCTS, PRODUCTS, ONE_LEFT, "@P0 BRA 0x0", "EXIT"];
        assert_eq!(find(&listing(&code)), Some(HotLoop { exponentials: 1, overlapped: 1 }));
    }

    #[test]
    fn a_jump_back_into_the_middle_is_no_loop() {
        let spin = "@P1 BRA 0x60"; // a wait whose spin lies behind the code and comes back to 0x10
        let code = [spin, PRODUCTS, PRODUCTS, ONE_LEFT, EXPONENTIAL, "EXIT", "@P2 BRA 0x60", "BRA 0x10"];
        assert_eq!(find(&listing(&code)), None);
    }
}
