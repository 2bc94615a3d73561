//! The page: what was measured, plots, the table.

use super::case::Pass;
use super::plot::{METHODS, speedup_over_density, time_over_length};
use super::results::{Results, Row, duration, significant};
use crate::failure::Result;
use crate::report::{STYLE, mark};
use maud::{DOCTYPE, Markup, PreEscaped, html};

/// The whole page as HTML.
pub fn render(results: &Results) -> Result<String> {
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                title { "lacuna: how long sparse attention takes" }
                style { (PreEscaped(STYLE)) }
            }
            body {
                (heading(results))
                main {
                    (times(results)?)
                    (speedups(results)?)
                    (table(results))
                }
                footer { "Written by lacuna " (results.version) ". Everything on this page is inside this one file." }
            }
        }
    };
    Ok(page.into_string())
}

fn heading(results: &Results) -> Markup {
    html! {
        header {
            p.brand { (mark()) "lacuna" span { (results.version) } }
            h1 { "How long does attention take?" }
            p.lede {
                @if let Some(note) = &results.note { (note) } @else {
                    "Medians by the device's clock, after a call that is not counted. Planning is part of a step wherever the "
                    "blocks depend on data."
                }
            }
            dl.facts {
                div { dt { "Device" } dd { (results.device) br; small { (results.device_choice) } } }
                @if let Some(row) = results.rows.first() {
                    div {
                        dt { "Calls" }
                        dd { "causal, bf16, batch " (row.batch) ", " (row.q_heads) " query heads, " (row.kv_heads) " KV heads" }
                    }
                }
            }
        }
    }
}

fn legend(rows: &[&Row]) -> Markup {
    html! {
        ul.legend {
            @for (method, _) in METHODS {
                @if rows.iter().any(|row| row.method == method) { li class=(class(method)) { span.dot {} (method) } }
            }
        }
    }
}

/// The class of the style sheet that colours a method.
fn class(method: &str) -> &'static str {
    METHODS.iter().find(|(name, _)| *name == method).map_or("dense", |(_, class)| class)
}

/// A plot for each pass and head dim with more than one length.
fn times(results: &Results) -> Result<Markup> {
    let mut plots = Vec::new();
    for pass in Pass::ALL {
        let mut head_dims: Vec<usize> = results.rows.iter().map(|row| row.head_dim).collect();
        head_dims.sort_unstable();
        head_dims.dedup();
        for head_dim in head_dims {
            let fits = |row: &&Row| row.pass == pass.name() && row.head_dim == head_dim;
            let rows: Vec<&Row> = results.rows.iter().filter(fits).collect();
            if rows.iter().all(|row| row.len == rows[0].len) {
                continue;
            }
            let title = format!("{}, head_dim {head_dim}", pass.name());
            plots.push((time_over_length(&rows, &format!("time over length: {title}"))?, title, legend(&rows)));
        }
    }
    Ok(html! {
        @if !plots.is_empty() {
            section {
                h2 { "Time of a step" }
                p { "Planning, where a step needs it, and attention. Each line is a method; those with a density have a line for each." }
                @for (plot, title, legend) in &plots {
                    div.card.plot style="margin-bottom: 1rem" { h3 { (title) } (legend) div.scroll { (PreEscaped(plot)) } }
                }
            }
        }
    })
}

fn speedups(results: &Results) -> Result<Markup> {
    let Some(plot) = speedup_over_density(results)? else { return Ok(html! {}) };
    let rows: Vec<&Row> = results.rows.iter().filter(|row| row.method != "dense").collect();
    Ok(html! {
        section {
            h2 { "Does time follow density?" }
            p {
                "Each point is a row of the table. On the dashed line a call at half the density takes half the time; what lies below "
                "it pays for planning, for blocks on the diagonal, which are computed whole, or for what does not shrink."
            }
            div.card.plot { (legend(&rows)) div.scroll { (PreEscaped(plot)) } }
        }
    })
}

fn table(results: &Results) -> Markup {
    html! {
        section {
            h2 { "Every case" }
            p {
                "Times are medians with the least and the most. TFLOP/s count useful work: for each pair that the mask keeps 4 "
                "operations an element of a head, 10 backward."
            }
            div.card.table {
                div.scroll {
                    table {
                        thead { tr {
                            th { "#" } th.text { "pass" } th.text { "method" } th.text { "settings" } th { "head_dim" }
                            th { "tokens" } th { "density" } th { "planning" } th { "attention" } th { "least to most" }
                            th { "times faster" br; "than dense" } th { "TFLOP/s" } th.text { "kernels" }
                        } }
                        tbody {
                            @for (i, row) in results.rows.iter().enumerate() {
                                tr class=(class(row.method)) {
                                    td { (i + 1) }
                                    td.text { (row.pass) }
                                    td.text { span.name { span.dot {} (row.method) } }
                                    td.text.settings { (row.settings) }
                                    td { (row.head_dim) }
                                    td { (row.len) }
                                    td { @if let Some(density) = row.density { (format!("{:.1} %", density * 100.0)) } @else { "not counted" } }
                                    td { @if let Some(timing) = row.planning_seconds { (duration(timing.median)) } @else { "once" } }
                                    td { (duration(row.attention_seconds.median)) }
                                    td { (duration(row.attention_seconds.least)) " to " (duration(row.attention_seconds.most)) }
                                    td { @if let Some(speedup) = row.speedup { (format!("{speedup:.2}")) } }
                                    td { @if let Some(tflops) = row.useful_tflops { (significant(tflops)) } }
                                    td.text { code { (row.kernels.join(" ")) } }
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}
