//! The OCI config's `linux.resources` as files of a cgroup2 directory (Linux, Documentation/admin-guide/cgroup-v2.rst).

use crate::failure::{Context, Failure};
use protocol::Stage::Config;
use protocol::oci::{BlockIo, Cpu, Memory, Resources};
use std::fs;
use std::path::Path;

/// A file of the cgroup, what is written to it, and the field of `linux.resources` that says so.
#[derive(Debug, PartialEq)]
struct Setting {
    file: String,
    value: String,
    field: String,
}

/// Makes a cgroup's limits; its controllers are there.
pub fn apply(directory: &str, resources: &Resources) -> Result<(), Failure> {
    for Setting { file, value, field } in settings(resources, |file| there(directory, file))? {
        let path = format!("{directory}/{file}");
        let what = || format!("linux.resources.{field}: writing {value} to {path}");
        // Never made: what is no file of the kernel's is a controller that it lacks.
        let file = fs::OpenOptions::new().write(true).open(&path).at(Config, what)?;
        std::io::Write::write_all(&mut &file, value.as_bytes()).at(Config, what)?;
    }
    Ok(())
}

/// The controllers that these limits need, by their names in `cgroup.subtree_control`.
pub fn controllers(resources: &Resources) -> Vec<&str> {
    let Resources { memory, cpu, pids, block_io, hugepage_limits, unified, devices: _ } = resources;
    let cpuset = cpu.as_ref().is_some_and(|cpu| cpu.cpus.is_some() || cpu.mems.is_some());
    let fields = [
        ("memory", memory.is_some()),
        ("cpu", cpu.is_some()),
        ("cpuset", cpuset),
        ("pids", pids.is_some()),
        ("io", block_io.is_some()),
        ("hugetlb", !hugepage_limits.is_empty()),
    ];
    let mut wanted: Vec<&str> = fields.into_iter().filter(|(_, is)| *is).map(|(name, _)| name).collect();
    for controller in unified.keys().filter_map(|file| file.split('.').next()) {
        if controller != "cgroup" && !wanted.contains(&controller) {
            wanted.push(controller);
        }
    }
    wanted
}

fn there(directory: &str, file: &str) -> bool {
    Path::new(directory).join(file).exists()
}

fn refused<T>(field: &str, why: impl std::fmt::Display) -> Result<T, Failure> {
    Err(Failure::new(Config, format!("linux.resources.{field}: {why}")))
}

fn settings(resources: &Resources, there: impl Fn(&str) -> bool) -> Result<Vec<Setting>, Failure> {
    let Resources { memory, cpu, pids, block_io, hugepage_limits, unified, devices: _ } = resources;
    let mut all = Settings(vec![]);
    if let Some(memory) = memory {
        all.memory(memory)?;
    }
    if let Some(cpu) = cpu {
        all.cpu(cpu)?;
    }
    if let Some(pids) = pids {
        all.add("pids.max", limit(if pids.limit == 0 { -1 } else { pids.limit }), "pids.limit");
    }
    if let Some(block_io) = block_io {
        all.block_io(block_io, there)?;
    }
    for (index, hugepage) in hugepage_limits.iter().enumerate() {
        let size = &hugepage.page_size;
        if !size.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
            return refused(
                &format!("hugepageLimits[{index}].pageSize"),
                format!("{size:?} is no size: 2MB is"),
            );
        }
        let file = format!("hugetlb.{size}.max");
        all.add(&file, hugepage.limit, &format!("hugepageLimits[{index}]"));
    }
    for (file, value) in unified {
        let is_file = file.contains('.') && !file.starts_with('.') && !file.contains(['/', '\0']);
        if !is_file {
            return refused("unified", format!("{file:?} is no file of a cgroup"));
        }
        all.add(file, value, &format!("unified.{file}"));
    }
    Ok(all.0)
}

/// How cgroup2 writes a limit.
fn limit(limit: i64) -> String {
    if limit < 0 { "max".into() } else { limit.to_string() }
}

struct Settings(Vec<Setting>);

impl Settings {
    fn add(&mut self, file: &str, value: impl ToString, field: &str) {
        self.0.push(Setting { file: file.into(), value: value.to_string(), field: field.into() });
    }

    fn memory(&mut self, memory: &Memory) -> Result<(), Failure> {
        let Memory { limit: most, reservation, swap } = memory;
        for (field, value) in [("limit", most), ("reservation", reservation), ("swap", swap)] {
            if value.is_some_and(|value| value < -1) {
                return refused(&format!("memory.{field}"), "a number of bytes, or -1");
            }
        }
        if let Some(most) = *most {
            self.add("memory.max", limit(most), "memory.limit");
        }
        if let Some(low) = *reservation {
            self.add("memory.low", limit(low), "memory.reservation");
        }
        match (*swap, most.unwrap_or(-1)) {
            (None, _) => {}
            (Some(-1), _) => self.add("memory.swap.max", "max", "memory.swap"),
            (Some(_), -1) => return refused("memory.swap", "it holds memory.limit, which is not given"),
            (Some(both), most) if both < most => {
                return refused("memory.swap", format!("{both} is less than memory.limit, which it holds"));
            }
            (Some(both), most) => self.add("memory.swap.max", both - most, "memory.swap"),
        }
        Ok(())
    }

    fn cpu(&mut self, cpu: &Cpu) -> Result<(), Failure> {
        let Cpu { shares, quota, period, burst, idle, cpus, mems } = cpu;
        if let Some(shares) = shares.filter(|shares| *shares != 0) {
            if !(2..=262_144).contains(&shares) {
                return refused("cpu.shares", format!("{shares} is not in 2..262144"));
            }
            // As runc had it up to 1.3.1, and Kubernetes has it: linear, 2..262144 to 1..10000.
            self.add("cpu.weight", 1 + (shares - 2) * 9999 / 262_142, "cpu.shares");
        }
        if let Some(idle) = idle {
            self.add("cpu.idle", idle, "cpu.idle");
        }
        if quota.is_some() || period.is_some() {
            let quota = quota.filter(|quota| *quota != 0).unwrap_or(-1);
            let value =
                format!("{} {}", limit(quota), period.filter(|period| *period != 0).unwrap_or(100_000));
            self.add("cpu.max", value, if cpu.quota.is_some() { "cpu.quota" } else { "cpu.period" });
        }
        if let Some(burst) = burst {
            self.add("cpu.max.burst", burst, "cpu.burst");
        }
        if let Some(cpus) = cpus {
            self.add("cpuset.cpus", cpus, "cpu.cpus");
        }
        if let Some(mems) = mems {
            self.add("cpuset.mems", mems, "cpu.mems");
        }
        Ok(())
    }

    fn block_io(&mut self, block_io: &BlockIo, there: impl Fn(&str) -> bool) -> Result<(), Failure> {
        let weights = block_io.weight_device.iter().map(|device| device.weight).chain(block_io.weight);
        if let Some(weight) = weights.into_iter().find(|weight| !(10..=1000).contains(weight)) {
            return refused("blockIO", format!("the weight {weight} is not in 10..1000"));
        }
        const BFQ: &str = "io.bfq.weight";
        if let Some(weight) = block_io.weight {
            if there(BFQ) {
                self.add(BFQ, weight, "blockIO.weight");
            } else {
                // io.weight is 1..10000, which runc maps so.
                self.add("io.weight", 1 + u32::from(weight - 10) * 9999 / 990, "blockIO.weight");
            }
        }
        for device in &block_io.weight_device {
            let value = format!("{}:{} {}", device.major, device.minor, device.weight);
            self.add(BFQ, value, "blockIO.weightDevice");
        }
        for (devices, key, field) in [
            (&block_io.throttle_read_bps_device, "rbps", "throttleReadBpsDevice"),
            (&block_io.throttle_write_bps_device, "wbps", "throttleWriteBpsDevice"),
            (&block_io.throttle_read_iops_device, "riops", "throttleReadIOPSDevice"),
            (&block_io.throttle_write_iops_device, "wiops", "throttleWriteIOPSDevice"),
        ] {
            for device in devices {
                let value = format!("{}:{} {key}={}", device.major, device.minor, device.rate);
                self.add("io.max", value, &format!("blockIO.{field}"));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(json: serde_json::Value) -> Result<Vec<String>, String> {
        let resources: Resources = serde_json::from_value(json).map_err(|error| error.to_string())?;
        let settings = settings(&resources, |_| false).map_err(|failure| failure.0.message)?;
        Ok(settings.into_iter().map(|setting| format!("{}={}", setting.file, setting.value)).collect())
    }

    #[test]
    fn fields_are_files() {
        let json = serde_json::json!({
            "memory": { "limit": 1000, "reservation": 500, "swap": 1500 },
            "cpu": { "shares": 1024, "quota": 50000, "period": 200000, "burst": 10, "idle": 0, "cpus": "0-1", "mems": "0" },
            "pids": { "limit": 7 },
            "blockIO": {
                "weight": 500,
                "weightDevice": [{ "major": 8, "minor": 0, "weight": 10 }],
                "throttleReadBpsDevice": [{ "major": 254, "minor": 16, "rate": 1 }],
                "throttleWriteIOPSDevice": [{ "major": 254, "minor": 16, "rate": 2 }]
            },
            "hugepageLimits": [{ "pageSize": "2MB", "limit": 4096 }],
            "unified": { "memory.high": "900" }
        });
        let files = [
            "memory.max=1000",
            "memory.low=500",
            "memory.swap.max=500",
            "cpu.weight=39",
            "cpu.idle=0",
            "cpu.max=50000 200000",
            "cpu.max.burst=10",
            "cpuset.cpus=0-1",
            "cpuset.mems=0",
            "pids.max=7",
            "io.weight=4950",
            "io.bfq.weight=8:0 10",
            "io.max=254:16 rbps=1",
            "io.max=254:16 wiops=2",
            "hugetlb.2MB.max=4096",
            "memory.high=900",
        ];
        assert_eq!(written(json.clone()).unwrap(), files);
        let resources: Resources = serde_json::from_value(json).unwrap();
        assert_eq!(controllers(&resources), ["memory", "cpu", "cpuset", "pids", "io", "hugetlb"]);
    }

    #[test]
    fn what_is_unlimited_is_max() {
        let json = serde_json::json!({
            "memory": { "limit": -1, "swap": -1 }, "cpu": { "quota": -1 }, "pids": { "limit": 0 }
        });
        let files = ["memory.max=max", "memory.swap.max=max", "cpu.max=max 100000", "pids.max=max"];
        assert_eq!(written(json).unwrap(), files);
    }

    #[test]
    fn bad_values_are_named() {
        for (field, json) in [
            ("memory.limit", serde_json::json!({ "memory": { "limit": -2 } })),
            ("memory.swap", serde_json::json!({ "memory": { "swap": 5 } })),
            ("memory.swap", serde_json::json!({ "memory": { "limit": 6, "swap": 5 } })),
            ("cpu.shares", serde_json::json!({ "cpu": { "shares": 1 } })),
            ("blockIO", serde_json::json!({ "blockIO": { "weight": 9 } })),
            (
                "hugepageLimits[0].pageSize",
                serde_json::json!({ "hugepageLimits": [{ "pageSize": "../x", "limit": 1 }] }),
            ),
            ("unified", serde_json::json!({ "unified": { "../../x.y": "1" } })),
            ("unified", serde_json::json!({ "unified": { "x": "1" } })),
            ("`kernel`", serde_json::json!({ "memory": { "kernel": 1 } })),
            ("`swappiness`", serde_json::json!({ "memory": { "swappiness": 1 } })),
            ("`realtimeRuntime`", serde_json::json!({ "cpu": { "realtimeRuntime": 1 } })),
            ("`leafWeight`", serde_json::json!({ "blockIO": { "leafWeight": 10 } })),
            ("`network`", serde_json::json!({ "network": {} })),
            ("`rdma`", serde_json::json!({ "rdma": {} })),
        ] {
            let why = written(json).unwrap_err();
            assert!(why.contains(field), "{why} does not name {field}");
        }
    }
}
