//! What the container uses.

use crate::cgroup::Cgroup;
use crate::timeline;
use protocol::Stats;
use std::fs;

/// Reads it from the cgroup's files (Documentation/admin-guide/cgroup-v2.rst) and from `/proc/net/dev`. What cannot be read
/// counts as 0.
pub fn read(cgroup: &Cgroup) -> Stats {
    let file = |name| text(&format!("{}/{name}", cgroup.path()));
    let io = file("io.stat");
    let network = text("/proc/net/dev");
    let all = field(&text("/proc/meminfo"), "MemTotal:") << 10;
    Stats {
        at: timeline::now(),
        cpu: field(&file("cpu.stat"), "usage_usec"),
        // As docker counts it.
        memory: number(&file("memory.current")).saturating_sub(field(&file("memory.stat"), "inactive_file")),
        memory_limit: file("memory.max").trim().parse().map_or(all, |limit: u64| limit.min(all)),
        read: sum(&io, "rbytes="),
        written: sum(&io, "wbytes="),
        received: interfaces(&network, 0),
        sent: interfaces(&network, 8),
        pids: number(&file("pids.current")),
    }
}

fn text(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

fn number(text: &str) -> u64 {
    text.trim().parse().unwrap_or(0)
}

/// Of lines `KEY VALUE`, the value of a key.
fn field(text: &str, key: &str) -> u64 {
    let words =
        |line: &str| line.strip_prefix(key).and_then(|rest| rest.split_whitespace().next()).map(number);
    text.lines().find_map(words).unwrap_or(0)
}

/// The sum of all words `KEY=VALUE` of a key.
fn sum(text: &str, key: &str) -> u64 {
    text.split_whitespace().filter_map(|word| word.strip_prefix(key)).map(number).sum()
}

/// The sum of a column of `/proc/net/dev` (proc_pid_net(5)), without `lo`.
fn interfaces(text: &str, column: usize) -> u64 {
    let lines = text.lines().filter_map(|line| line.split_once(':'));
    let others = lines.filter(|(name, _)| name.trim() != "lo");
    others.filter_map(|(_, counts)| counts.split_whitespace().nth(column)).map(number).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_files() {
        let cpu = "usage_usec 1234\nuser_usec 1000\n";
        assert_eq!((field(cpu, "usage_usec"), field(cpu, "nr_periods")), (1234, 0));
        assert_eq!(field("MemTotal:         242960 kB\n", "MemTotal:"), 242_960);
        let io = "254:0 rbytes=4096 wbytes=0 rios=1\n254:16 rbytes=100 wbytes=7 rios=2\n";
        assert_eq!((sum(io, "rbytes="), sum(io, "wbytes="), sum("", "rbytes=")), (4196, 7, 0));
        let network = "Inter-|   Receive\n face |bytes    packets\n    lo:     5 1 0 0 0 0 0 0 5 1 0 0 0 0 0 0\n  eth0: 11 2 0 0 0 0 0 0 13 2 0 0 0 0 0 0\neth1:7\n";
        assert_eq!((interfaces(network, 0), interfaces(network, 8)), (18, 13));
        assert_eq!((number("max\n"), number("12\n")), (0, 12));
    }
}
