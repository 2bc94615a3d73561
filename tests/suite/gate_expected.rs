//! What `gate_select` must give, in f64 and without a thought for speed.

use crate::gate_lists::{APART, COUNT, Call, FRACTION, NEUTRAL, THRESHOLD, TOP_P};

pub struct Expected {
    /// `[batch, q_heads, rows, KV blocks]`
    pub logits: Vec<f64>,
    /// Bounds the error of logits in f32.
    pub error: f64,
    pub lists: Vec<List>,
    pub overflow: i32,
    /// Rounding may change the number of blocks of some list, and where lists are cut, of others.
    pub lengths_close: bool,
}

#[derive(Clone)]
pub struct List {
    pub blocks: Vec<i32>,
    /// Rounding may change the blocks.
    pub close: bool,
}

/// What a row of q_gate sees.
struct Row {
    logits: Vec<f64>,
    visible: usize,
    current: usize,
    dense: bool,
}

fn row(call: &Call, sequence: usize, head: usize, row: usize) -> Option<Row> {
    let p = &call.p;
    let len = call.kv_lens.as_ref().map_or(p.kv_len, |lens| lens[sequence]).clamp(0, p.kv_len);
    let first = (len - p.q_len).div_euclid(p.row_tokens) * p.row_tokens + row as i32 * p.row_tokens;
    let last = (first + p.row_tokens).min(len) - 1;
    if first >= len || last < 0 {
        return None;
    }
    let blocks = (len as usize).div_ceil(p.block as usize);
    let current = (last / p.block) as usize;
    let open = current + 1 == blocks && len % p.block != 0;
    let dim = p.gate_dim as usize;
    let q = &call.q[((sequence * p.q_heads as usize + head) * p.rows as usize + row) * dim..][..dim];
    let key_head = head * p.k_heads as usize / p.q_heads as usize;
    let keys = &call.k[(sequence * p.k_heads as usize + key_head) * p.k_rows as usize * dim..];
    let visible = if p.causal == 1 { current + 1 } else { blocks };
    let logits = (0..visible)
        .map(|block| {
            if p.current == NEUTRAL && open && block == current {
                return 0.0;
            }
            let terms = q.iter().zip(&keys[block * dim..]).map(|(&q, &k)| f64::from(q) * f64::from(k));
            terms.sum::<f64>() / (dim as f64).sqrt()
        })
        .collect();
    let rows = (len + p.row_tokens - 1) / p.row_tokens;
    let dense = last / p.row_tokens >= rows.saturating_sub(p.last_rows_dense);
    Some(Row { logits, visible, current, dense })
}

/// The blocks of one list before any cut.
struct Ranked {
    selected: Vec<bool>,
    forced: Vec<bool>,
    /// None: no score; such a block ranks first.
    scores: Vec<Option<f64>>,
    close: bool,
}

fn ranked(call: &Call, rows: &[Row], blocks_of_sequence: usize, error: f64) -> Ranked {
    let p = &call.p;
    let kv_blocks = call.kv_blocks();
    let mut scores = vec![None; kv_blocks];
    for row in rows {
        let part: Vec<usize> = (0..row.visible).filter(|&j| p.current != APART || j != row.current).collect();
        let most = part.iter().fold(f64::NEG_INFINITY, |most, &j| most.max(row.logits[j]));
        let lse = most + part.iter().map(|&j| (row.logits[j] - most).exp()).sum::<f64>().ln();
        for j in part {
            let score: &mut Option<f64> = &mut scores[j];
            *score = Some(score.unwrap_or(f64::NEG_INFINITY).max(row.logits[j] - lse));
        }
    }
    let mut order: Vec<usize> = (0..kv_blocks).filter(|&j| scores[j].is_some()).collect();
    order.sort_by(|&a, &b| scores[b].partial_cmp(&scores[a]).unwrap().then(a.cmp(&b)));
    let score = |rank: usize| scores[order[rank]].unwrap();
    let (take, close) = match p.rule {
        COUNT | FRACTION => {
            let count = if p.rule == COUNT { p.count as usize } else { (p.value * blocks_of_sequence as f64) as usize };
            let take = count.max(1).min(order.len());
            // Exact ties are decided by the order of blocks.
            let gap = if take == 0 || take == order.len() { f64::INFINITY } else { score(take - 1) - score(take) };
            (take, gap != 0.0 && gap < error)
        }
        THRESHOLD => {
            let log = p.value.ln();
            let above = |score: f64| p.value < 0.0 || score > log;
            let close = (0..order.len()).any(|rank| (score(rank) - log).abs() < error);
            ((0..order.len()).filter(|&rank| above(score(rank))).count(), p.value > 0.0 && close)
        }
        _ => {
            // Of several members P is the largest of theirs over the sum of these, which has errors of its own.
            let single = p.q_heads == p.plan_heads && p.rows_per_list == 1;
            let all: f64 = (0..order.len()).map(|rank| score(rank).exp()).sum();
            let (all, error) = if single { (1.0, error) } else { (all, 2.0 * error) };
            let mut mass = 0.0;
            let mut take = order.len();
            let mut close = false;
            for rank in 0..order.len() {
                mass += score(rank).exp() / all;
                close |= (mass - p.value).abs() < error;
                if mass >= p.value {
                    take = rank + 1;
                    break;
                }
            }
            let gap = if take == 0 || take == order.len() { f64::INFINITY } else { score(take - 1) - score(take) };
            if p.value >= 1.0 { (order.len(), false) } else { (take, close || gap < error) }
        }
    };
    let mut selected = vec![false; kv_blocks];
    order[..take].iter().for_each(|&j| selected[j] = true);
    let mut forced = vec![false; kv_blocks];
    for row in rows {
        for j in 0..row.visible {
            forced[j] |= j < p.sink_blocks as usize || (p.force_diagonal == 1 && j == row.current);
            selected[j] |= row.dense;
        }
    }
    selected.iter_mut().zip(&forced).for_each(|(selected, forced)| *selected |= forced);
    Ranked { selected, forced, scores, close }
}

fn cut(ranked: &Ranked, room: usize, error: f64) -> List {
    let mut blocks: Vec<usize> = (0..ranked.selected.len()).filter(|&j| ranked.selected[j]).collect();
    if blocks.len() <= room {
        return List { blocks: blocks.into_iter().map(|j| j as i32).collect(), close: ranked.close };
    }
    let rank = |j: usize| (ranked.forced[j], ranked.scores[j].unwrap_or(f64::INFINITY));
    blocks.sort_by(|&a, &b| rank(b).partial_cmp(&rank(a)).unwrap().then(a.cmp(&b)));
    let close = room > 0 && {
        let (kept, lost) = (rank(blocks[room - 1]), rank(blocks[room]));
        kept.0 == lost.0 && kept.1 != lost.1 && kept.1 - lost.1 < error
    };
    blocks.truncate(room);
    blocks.sort_unstable();
    List { blocks: blocks.into_iter().map(|j| j as i32).collect(), close: ranked.close || close }
}

pub fn expected(call: &Call) -> Expected {
    let p = &call.p;
    let dims = [p.batch, p.q_heads, p.rows].map(|size| size as usize);
    let kv_blocks = call.kv_blocks();
    // A rounding for each term of a logit.
    let dim = f64::from(p.gate_dim);
    let most = |values: &[f32]| values.iter().fold(0f32, |most, x| most.max(x.abs()));
    let unit = f64::from(f32::EPSILON);
    let error = (dim + 4.0) * unit * f64::from(most(&call.q) * most(&call.k)) * dim.sqrt();
    // Counts rank logits of single members. Other scores have an LSE, of approximate logarithms and exponentials, whose
    // sum is made by 32 lanes.
    let ranks_logits = matches!(p.rule, COUNT | FRACTION) && p.q_heads == p.plan_heads && p.rows_per_list == 1;
    let score_error = 2.0 * error + if ranks_logits { 0.0 } else { (kv_blocks as f64 / 32.0 + 64.0) * unit };
    let mut logits = Vec::new();
    for (sequence, head) in (0..dims[0]).flat_map(|b| (0..dims[1]).map(move |h| (b, h))) {
        for r in 0..dims[2] {
            let seen = row(call, sequence, head, r).map_or(Vec::new(), |row| row.logits);
            logits.extend(seen.iter().copied().chain(std::iter::repeat(f64::NEG_INFINITY)).take(kv_blocks));
        }
    }
    let group = (p.q_heads / p.plan_heads) as usize;
    let rows_per_list = p.rows_per_list as usize;
    let mut all = Vec::new();
    for (sequence, plan_head) in (0..dims[0]).flat_map(|b| (0..p.plan_heads as usize).map(move |h| (b, h))) {
        let len = call.kv_lens.as_ref().map_or(p.kv_len, |lens| lens[sequence]).clamp(0, p.kv_len);
        for list in 0..dims[2] / rows_per_list {
            let members = (0..group)
                .flat_map(|g| (0..rows_per_list).map(move |r| (plan_head * group + g, list * rows_per_list + r)));
            let rows: Vec<Row> = members.filter_map(|(head, r)| row(call, sequence, head, r)).collect();
            all.push(ranked(call, &rows, (len as usize).div_ceil(p.block as usize), score_error));
        }
    }
    // One common length, and one more for the first lists that are longer.
    let lengths: Vec<usize> = all.iter().map(|list| list.selected.iter().filter(|&&on| on).count()).collect();
    let capacity = p.capacity as usize;
    let cut_to = |length: usize| lengths.iter().map(|&len| len.min(length)).sum::<usize>();
    let length = (0..=kv_blocks).rev().find(|&length| cut_to(length) <= capacity).unwrap();
    let mut left = capacity - cut_to(length);
    let lists: Vec<List> = all
        .iter()
        .zip(&lengths)
        .map(|(list, &len)| {
            let more = usize::from(len > length && left > 0);
            left -= more;
            cut(list, len.min(length + more), score_error)
        })
        .collect();
    let kept: usize = lists.iter().map(|list| list.blocks.len()).sum();
    let overflow = (lengths.iter().sum::<usize>() - kept) as i32;
    let lengths_close = matches!(p.rule, THRESHOLD | TOP_P) && all.iter().any(|list| list.close);
    Expected { logits, error, lists, overflow, lengths_close }
}
