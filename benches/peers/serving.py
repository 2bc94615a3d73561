"""Which rows a case has. No imports of what they are made of: a plan is printed on any machine."""

DENSE_PEERS = ("fa3", "sdpa-cudnn", "sdpa-flash")
FLEX_TIERS = 1  # flex compiles for seconds a shape: only in the more important cases
FLASHINFER_LENGTH = 32768  # it plans on the host, token by token


def rows_of(case, portable=False, without=()):
    """Names of the rows, lacuna first."""
    rows = ["lacuna"] + (["lacuna-portable"] if portable else [])
    if case.dense:
        rows += DENSE_PEERS
    elif case.length <= FLASHINFER_LENGTH:
        rows += flashinfer_rows(case)
    if case.tier <= FLEX_TIERS:
        rows.append("flex")
    return [row for row in rows if row not in without]


def flashinfer_rows(case):
    rows = []
    if case.lists == 1:
        rows.append("flashinfer")
    if case.lists == case.kv_heads:
        rows.append("flashinfer-variable")
        if case.head_dim == 128 and case.block == 64 and not case.causal and case.q_heads == case.kv_heads:
            rows.append("flashinfer-cake")
    return rows
