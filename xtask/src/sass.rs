//! Machine code as `cuobjdump -sass` prints it.

use std::collections::BTreeMap;

/// One instruction, such as `@!P0 BRA 0x240` at 0x00a0.
#[derive(Debug)]
pub struct Instruction {
    /// Bytes from the start of the function.
    pub address: u64,
    /// Runs only where its predicate says so.
    pub predicated: bool,
    /// With its modifiers: `HGMMA.64x128x16.F32.BF16`.
    pub opcode: String,
    pub operands: String,
}

impl Instruction {
    pub fn is(&self, opcode: &str) -> bool {
        let rest = self.opcode.strip_prefix(opcode);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
    }

    /// Where a branch goes.
    pub fn target(&self) -> Option<u64> {
        let last = self.operands.rsplit([',', ' ']).next()?;
        self.is("BRA").then(|| hexadecimal(last.strip_prefix("0x")?)).flatten()
    }

    /// Whether the next instruction never follows this one.
    pub fn ends(&self) -> bool {
        // `BRA P1, 0x40` and `BRA.DIV UR4, 0x40` go on where their condition does not hold.
        let always = self.opcode == "BRA" && !self.operands.contains(',');
        let leaves = ["EXIT", "RET", "BRX", "JMX"].iter().any(|opcode| self.is(opcode));
        !self.predicated && (always || leaves)
    }

    /// Products that this instruction ends a group of: ptxas marks the last HGMMA of a `wgmma.commit_group`.
    pub fn commits_group(&self) -> bool {
        self.is("HGMMA") && self.operands.ends_with("gsb0")
    }

    /// The N of `wgmma.wait_group N`: groups that may stay in flight.
    pub fn waits_for_groups(&self) -> Option<u32> {
        if !self.is("WARPGROUP.DEPBAR") {
            return None;
        }
        let left = self.operands.rsplit("0x").next()?;
        u32::from_str_radix(left, 16).ok()
    }
}

/// The functions of a listing, by mangled name.
pub fn functions(listing: &str) -> BTreeMap<String, Vec<Instruction>> {
    let mut functions = BTreeMap::new();
    let mut current: Option<&mut Vec<Instruction>> = None;
    for line in listing.lines() {
        if let Some((_, name)) = line.split_once("Function : ") {
            current = Some(functions.entry(name.trim().to_owned()).or_default());
        } else if let (Some(function), Some(instruction)) = (current.as_deref_mut(), instruction(line)) {
            function.push(instruction);
        }
    }
    functions
}

/// From `/*00a0*/ @P0 BRA 0x240 ; /* encoding */`; lines that hold only an encoding are none.
fn instruction(line: &str) -> Option<Instruction> {
    let (address, rest) = line.trim_start().strip_prefix("/*")?.split_once("*/")?;
    let address = hexadecimal(address)?;
    let text = rest.split_once(';')?.0.trim();
    let (predicate, text) = match text.split_once(' ') {
        Some((first, rest)) if first.starts_with('@') => (Some(first), rest.trim_start()),
        _ => (None, text),
    };
    let (opcode, operands) = text.split_once(' ').unwrap_or((text, ""));
    Some(Instruction {
        address,
        predicated: predicate.is_some(),
        opcode: opcode.to_owned(),
        operands: operands.trim().to_owned(),
    })
}

fn hexadecimal(digits: &str) -> Option<u64> {
    u64::from_str_radix(digits, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LISTING: &str = "
Fatbin elf code:
================
arch = sm_90a

		Function : _Z7forwardPf
	.headerflags	@\"EF_CUDA_SM90\"
        /*0f70*/                   HGMMA.64x128x16.F32.BF16 R24, gdesc[UR8], R24, gsb0 ;              /* 0x01e0000008187df0 */
                                                                                                      /* 0x000fe20008701818 */
        /*0f80*/                   WARPGROUP.DEPBAR.LE gsb0, 0x1 ;                                    /* 0x000000000000791f */
        /*13230*/             @!P0 BRA 0x240 ;                                                        /* 0x0000000000640947 */
        /*13240*/                  BRA.DIV UR4, 0x8280;
        /*13250*/                  BRA 0x13250;
        /*13260*/              @P1 EXIT ;
        /*13270*/                  EXIT ;
";

    #[test]
    fn reads_a_listing() {
        let functions = functions(LISTING);
        let code = &functions["_Z7forwardPf"];
        let addresses: Vec<u64> = code.iter().map(|i| i.address).collect();
        assert_eq!(addresses, [0xf70, 0xf80, 0x13230, 0x13240, 0x13250, 0x13260, 0x13270]);
        assert!(code[0].commits_group() && code[0].is("HGMMA") && !code[0].is("HGM"));
        assert_eq!(code[1].waits_for_groups(), Some(1));
        let targets: Vec<Option<u64>> = code.iter().map(Instruction::target).collect();
        assert_eq!(targets, [None, None, Some(0x240), Some(0x8280), Some(0x13250), None, None]);
        let ends: Vec<bool> = code.iter().map(Instruction::ends).collect();
        assert_eq!(ends, [false, false, false, false, true, false, true]);
    }
}
