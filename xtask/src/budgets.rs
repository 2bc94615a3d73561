//! Registers that a kernel may take, where more would cost resident blocks or mean that a setting was ignored.
//! __launch_bounds__ is no substitute: it caps what ptxas takes, often far above what it took when the tile was chosen.

/// A kernel whose mangled name contains all of `name` takes at most `registers` a thread.
pub struct Budget {
    name: &'static [&'static str],
    pub registers: u32,
    pub reason: &'static str,
}

/// The first row that fits counts. A multiprocessor has 65536 registers, given to warps in steps of 8 a thread.
const BUDGETS: &[Budget] = &[
    Budget {
        name: &["sm90", "forward"],
        registers: 168, // 65536 / 384, rounded down to 8
        reason: "at entry of 384 threads; setmaxnreg moves them between warpgroups later",
    },
    Budget {
        name: &["sm80", "forward", "ForwardTraitsILi32E"],
        registers: 128, // 65536 / (4 * 128)
        reason: "4 blocks of 128 threads a multiprocessor at head dim 32",
    },
    Budget {
        name: &["sm80", "forward", "ForwardTraitsILi64E"],
        registers: 168, // 65536 / (3 * 128), rounded down to 8
        reason: "3 blocks of 128 threads a multiprocessor at head dim 64",
    },
    Budget {
        name: &["sm80", "decode", "DecodeTraitsILi32E"],
        registers: 128, // 65536 / (4 * 128)
        reason: "4 blocks of 128 threads a multiprocessor at head dim 32, as many as 164 KB hold",
    },
    Budget {
        name: &["sm80", "decode", "DecodeTraitsILi64ELi64E"],
        registers: 168, // 65536 / (3 * 128), rounded down to 8
        reason: "3 blocks of 128 threads a multiprocessor at head dim 64, as many as 164 KB hold",
    },
    Budget {
        name: &["sm80", "decode", "DecodeTraitsILi64E"],
        registers: 128, // 65536 / (4 * 128)
        reason: "4 blocks of 128 threads a multiprocessor at head dim 64 and few rows, as many as 228 KB hold",
    },
];

pub fn budget(kernel: &str) -> Option<&'static Budget> {
    BUDGETS.iter().find(|budget| budget.name.iter().all(|part| kernel.contains(part)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_head_dim_and_the_family_pick_the_row() {
        let registers = |kernel: &str| budget(kernel).map(|budget| budget.registers);
        let name = |family: &str, dim: u32| format!("_Z{family}14forward_kernelINS0_13ForwardTraitsILi{dim}ENS_4HalfE");
        assert_eq!(registers(&name("4sm90", 32)), Some(168));
        assert_eq!(registers(&name("4sm80", 32)), Some(128));
        assert_eq!(registers(&(name("4sm80", 32) + "Lb1E")), Some(128));
        assert_eq!(registers(&name("4sm80", 64)), Some(168));
        assert_eq!(registers(&name("4sm80", 128)), None);
        let decode = |dim: u32, rows: u32| {
            registers(&format!("_ZN4sm8013decode_kernelINS0_12DecodeTraitsILi{dim}ELi{rows}ENS_4HalfE"))
        };
        assert_eq!([decode(32, 16), decode(64, 16), decode(64, 64)], [Some(128), Some(128), Some(168)]);
        assert_eq!(decode(128, 64), None);
        assert_eq!(registers("_Z12merge_kernel"), None);
    }
}
