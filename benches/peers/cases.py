"""What is measured, in order of importance, and how long it should take."""

from dataclasses import asdict, dataclass

# Guesses for the plan alone: nothing measured depends on them.
GUESSED_TFLOPS = {"lacuna": 450, "lacuna-portable": 200, "sdpa-flash": 330, "sdpa-cudnn": 600, "fa3": 600, "flex": 320}
GUESSED_OTHER_TFLOPS = 300
COMPILE_SECONDS = {"flex": 12.0}  # once for each shape and block size
CASE_SECONDS = 1.5  # inputs, correctness
MASK_SECONDS = 6e-8  # a cell of a random mask, on the host
MIN_ROUNDS, MAX_ROUNDS = 6, 60
WARM_UP_CALLS = 3
ROW_SECONDS = 0.35  # aimed at in timing one row

LENGTHS = (32768, 8192, 131072)
DENSITIES = (0.5, 0.25, 0.1)
BLOCKS = (128, 64)
MHA, GQA = (32, 32), (32, 8)


@dataclass(frozen=True)
class Case:
    """`block` 0: dense, by formula. `lists`: block lists of the plan, 1, kv_heads or q_heads. The batch is 1."""

    tier: int
    head_dim: int
    q_heads: int
    kv_heads: int
    length: int
    causal: bool
    density: float = 1.0
    block: int = 0
    lists: int = 0

    @property
    def dense(self):
        return self.block == 0

    @property
    def shape(self):
        """What a sparse case shares with the dense one that it is compared with."""
        return (self.head_dim, self.q_heads, self.kv_heads, self.length, self.causal)

    @property
    def name(self):
        kind = f"d{self.head_dim} h{self.q_heads}/{self.kv_heads} n{self.length} {'causal' if self.causal else 'full'}"
        if self.dense:
            return kind + " dense"
        return f"{kind} b{self.block} l{self.lists} {100 * self.density:g}%"

    def record(self):
        return {"name": self.name, **asdict(self)}

    def guessed_pairs(self):
        """Visible pairs of all heads, for estimates; results count those of the mask."""
        square = self.length * self.length
        return self.density * (square / 2 if self.causal else square) * self.q_heads


def shape_cases(tiers, head_dim, heads, length, causal):
    """A dense case and its sparse ones, a list for each KV head. `tiers`: of the dense case, of the sparse ones."""
    base = (head_dim, *heads, length, causal)
    yield Case(tiers[0], *base)
    for block in BLOCKS:
        for density in DENSITIES:
            yield Case(tiers[1], *base, density, block, heads[1])


def all_cases():
    cases = []
    for head_dim in (128, 64):
        for length in LENGTHS:
            for causal in (False, True):
                for heads in (MHA, GQA):
                    cases += shape_cases(tiers(head_dim, length, causal), head_dim, heads, length, causal)
    # What sharing of lists costs: one for all heads (all that FlashInfer's plain wrapper knows), and one for each
    # query head of a group (tiles that share nothing). And lists that name every block, against the formula.
    for block in BLOCKS:
        for density in DENSITIES:
            cases.append(Case(1, 128, *GQA, 32768, False, density, block, 1))
            cases.append(Case(2, 128, *GQA, 32768, False, density, block, 32))
        cases.append(Case(2, 128, *GQA, 32768, False, 1.0, block, 8))
    # A shape's dense case first: the others of its shape are compared with it.
    return sorted(cases, key=lambda case: (case.tier, case.length, -case.head_dim, case.shape, not case.dense))


def tiers(head_dim, length, causal):
    """Importance, 0 first, of a shape's dense case and of its sparse ones."""
    if head_dim == 128 and length == 32768:
        return (0, 1) if causal else (0, 0)
    if length == 32768:
        return (1, 2) if causal else (1, 1)
    if head_dim == 128:
        return (2, 3)
    return (3, 4)


def rounds(case_flop, tflops):
    """How often a row is timed."""
    seconds = case_flop / (tflops * 1e12)
    return max(MIN_ROUNDS, min(MAX_ROUNDS, int(ROW_SECONDS / max(seconds, 1e-6))))


def estimated_seconds(case, rows, compiled):
    """Time of a case that `rows` (names) serve. `compiled`: what earlier cases compiled, added to."""
    flop = 4 * case.guessed_pairs() * case.head_dim
    total = CASE_SECONDS
    if not case.dense:
        total += MASK_SECONDS * case.lists * (case.length // case.block) ** 2
    for row in rows:
        rate = GUESSED_TFLOPS.get(row, GUESSED_OTHER_TFLOPS)
        total += (rounds(flop, rate) + WARM_UP_CALLS) * flop / (rate * 1e12)
        key = (row, case.shape, case.block, case.lists)
        if row in COMPILE_SECONDS and key not in compiled:
            compiled.add(key)
            total += COMPILE_SECONDS[row]
    return total


def fits(cases, rows_of, seconds):
    """(case, estimate, kept) for cases in order of importance; what no longer fits `seconds` is not kept."""
    total, compiled = 0.0, set()
    for case in cases:
        estimate = estimated_seconds(case, rows_of(case), compiled)
        kept = total + estimate <= seconds
        total += estimate if kept else 0.0
        yield case, estimate, kept
