//! The report: what it was made on, and the numbers that stand in it.

use std::fmt::Write as _;

use process::Server;

/// The head: only ratios mean something elsewhere, so the machine and the versions stand above the numbers.
pub fn head(server: &Server) -> String {
    let version: String = server.ask("SELECT version()");
    let mut head = format!(
        "# Results\n\nMade by `make bench`.\n\n- {version}\n- {} cores, {} of memory; fsync off, autovacuum off\n",
        cores(),
        memory()
    );
    // Of a package, pg_extension knows the version of the SQL alone; bench/run names the packages.
    if let Ok(packages) = std::env::var("BENCH_PEERS") {
        let _ = writeln!(
            head,
            "- Debian packages of the peers: {}",
            packages.trim().replace('\n', ", ")
        );
    }
    head
}

/// Earlier results with the sections of new ones in the place of their own; `None` where they were made on another machine
/// or with other versions, so that they can't stand beside each other. Results of every part replace all.
pub fn merge(earlier: &str, new: &str, is_every_part: bool) -> Option<String> {
    let sections = |text: &str| -> Vec<String> {
        text.split("\n## ").map(|section| section.trim_end().to_owned()).collect()
    };
    let title = |section: &str| section.lines().next().unwrap_or_default().to_owned();
    let (mut kept, mut new) = (sections(earlier), sections(new));
    if is_every_part {
        kept.clear();
    } else if kept.first() != new.first() {
        return None;
    } else {
        new.remove(0);
    }
    for section in new {
        match kept.iter_mut().find(|other| title(other) == title(&section)) {
            Some(other) => *other = section,
            None => kept.push(section),
        }
    }
    Some(kept.join("\n\n## ") + "\n")
}

/// The version of an extension that a database has.
pub fn extension(server: &Server, database: &str, name: &str) -> String {
    server
        .ask_in(database, &format!("SELECT extversion FROM pg_extension WHERE extname = '{name}'"))
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(0, std::num::NonZero::get)
}

/// The machine's memory, as the kernel says it.
fn memory() -> String {
    let info = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kb = info.split_whitespace().nth(1).and_then(|kb| kb.parse::<u64>().ok()).unwrap_or(0);
    format!("{} GiB", kb >> 20)
}

/// The middle one.
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// The greatest one.
pub fn maximum(values: &[f64]) -> f64 {
    values.iter().copied().fold(f64::NAN, f64::max)
}

/// The start of a Markdown table.
pub fn table(report: &mut String, columns: &[&str]) {
    let _ = writeln!(report, "| {} |\n|{}", columns.join(" | "), " --- |".repeat(columns.len()));
}

/// A row of a Markdown table.
pub fn row(report: &mut String, cells: &[String]) {
    let _ = writeln!(report, "| {} |", cells.join(" | "));
}

#[cfg(test)]
mod tests {
    use super::merge;

    #[test]
    fn sections_replace_their_own() {
        let earlier = "# Results\n\n- machine\n\n## One\n\n1\n\n### More\n\n## Two\n\n2\n";
        let new = "# Results\n\n- machine\n\n## Two\n\n3\n\n## Three\n\n4\n";
        let merged =
            "# Results\n\n- machine\n\n## One\n\n1\n\n### More\n\n## Two\n\n3\n\n## Three\n\n4\n";
        assert_eq!(merge(earlier, new, false).as_deref(), Some(merged));
        assert_eq!(merge(earlier, new, true).as_deref(), Some(new));
        assert_eq!(merge(earlier, &new.replace("machine", "other"), false), None);
    }
}
