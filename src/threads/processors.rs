//! The processors that this process may use: how many, which are fast, and their caches.
//!
//! Everything is read from the kernel's text files. Where there are none (macOS, Windows, a sandbox), the answer is
//! that of the standard library.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// The processors, as far as they are known.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Processors {
    /// The processor's own name; empty if unknown.
    pub name: String,
    /// Processors that the affinity mask allows, fast or not.
    pub allowed: usize,
    /// The performance cores among them; all of them where cores do not differ.
    pub performance: usize,
    /// Processors that the affinity mask and the cgroup quota leave to this process.
    pub available: usize,
    /// Caches of the first processor, by level: name and bytes.
    pub caches: Vec<(String, u64)>,
}

impl Processors {
    /// Looks at this machine.
    pub fn detect() -> Processors {
        let available = std::thread::available_parallelism().map_or(1, usize::from);
        Self::read(Path::new("/"), available)
    }

    /// Threads to use unless told otherwise: the performance cores, as many as the quota allows.
    pub fn threads(&self) -> usize {
        self.available.min(self.performance).max(1)
    }

    /// Reads the files below `root`; `available` is the standard library's answer.
    fn read(root: &Path, available: usize) -> Processors {
        let text = |path: &str| fs::read_to_string(root.join(path)).unwrap_or_default();
        let status = text("proc/self/status");
        let list = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
        let mut allowed = list.map(parse_list).unwrap_or_default();
        if allowed.is_empty() {
            allowed = (0..available).collect();
        }
        let fast = performance_cores(root, &allowed);
        let performance = allowed.intersection(&fast).count();
        let name = text("proc/cpuinfo");
        let name = name.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':'));
        Processors {
            name: name.map(|(_, name)| name.trim().to_string()).unwrap_or_default(),
            allowed: allowed.len(),
            // A mask of slow cores only is a wish to use them.
            performance: if performance == 0 { allowed.len() } else { performance },
            available,
            caches: caches(&root.join("sys/devices/system/cpu/cpu0/cache")),
        }
    }
}

/// Those of `processors` that are fast: the list that Intel's hybrids have, or on ARM those with more than half
/// of the greatest capacity. All of them if neither exists.
fn performance_cores(root: &Path, processors: &BTreeSet<usize>) -> BTreeSet<usize> {
    if let Ok(list) = fs::read_to_string(root.join("sys/devices/cpu_core/cpus")) {
        let fast = parse_list(&list);
        if !fast.is_empty() {
            return fast;
        }
    }
    let capacity = |processor: &usize| -> Option<u64> {
        let path = root.join(format!("sys/devices/system/cpu/cpu{processor}/cpu_capacity"));
        fs::read_to_string(path).ok()?.trim().parse().ok()
    };
    let capacities: Vec<(usize, u64)> =
        processors.iter().filter_map(|&processor| Some((processor, capacity(&processor)?))).collect();
    let max = capacities.iter().map(|&(_, capacity)| capacity).max().unwrap_or(0);
    if max == 0 || capacities.len() < processors.len() {
        return processors.clone();
    }
    capacities
        .into_iter()
        .filter(|&(_, capacity)| capacity > max / 2)
        .map(|(processor, _)| processor)
        .collect()
}

/// The kernel's list of processors, such as `0-3,8`. What is not of that form is left out.
fn parse_list(list: &str) -> BTreeSet<usize> {
    let mut processors = BTreeSet::new();
    for range in list.trim().split(',') {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        if let (Ok(first), Ok(last)) = (first.trim().parse::<usize>(), last.trim().parse::<usize>()) {
            // More than any machine has; a damaged file must not fill the memory.
            processors.extend((first..=last).take(1 << 16));
        }
    }
    processors
}

fn caches(folder: &Path) -> Vec<(String, u64)> {
    let cache = |index: usize| -> Option<(String, u64)> {
        let text = |name: &str| fs::read_to_string(folder.join(format!("index{index}/{name}"))).ok();
        let (level, kind, size) = (text("level")?, text("type")?, text("size")?);
        let kilobytes: u64 = size.trim().strip_suffix('K')?.parse().ok()?;
        let suffix = match kind.trim() {
            "Data" => "d",
            "Instruction" => "i",
            _ => "",
        };
        Some((format!("L{}{suffix}", level.trim()), kilobytes.checked_mul(1024)?))
    };
    (0..8).filter_map(cache).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine(files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::TempDir::new().unwrap();
        for (path, text) in files {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        root
    }

    #[test]
    fn an_intel_hybrid_gets_its_performance_cores() {
        let root = machine(&[
            ("proc/self/status", "Name:\tx\nCpus_allowed_list:\t0-19\n"),
            ("sys/devices/cpu_core/cpus", "0-7\n"),
            ("proc/cpuinfo", "processor\t: 0\nmodel name\t: Some Core\n"),
            ("sys/devices/system/cpu/cpu0/cache/index0/level", "1\n"),
            ("sys/devices/system/cpu/cpu0/cache/index0/type", "Data\n"),
            ("sys/devices/system/cpu/cpu0/cache/index0/size", "48K\n"),
        ]);
        let found = Processors::read(root.path(), 20);
        assert_eq!((found.allowed, found.performance, found.threads()), (20, 8, 8));
        assert_eq!((found.name.as_str(), found.caches), ("Some Core", vec![("L1d".to_string(), 48 << 10)]));
        assert_eq!(Processors::read(root.path(), 4).threads(), 4, "the quota is less");
    }

    #[test]
    fn a_mask_of_slow_cores_uses_them() {
        let root = machine(&[
            ("proc/self/status", "Cpus_allowed_list:\t8-11\n"),
            ("sys/devices/cpu_core/cpus", "0-7\n"),
        ]);
        assert_eq!(Processors::read(root.path(), 4).threads(), 4);
    }

    #[test]
    fn an_arm_phone_gets_its_big_cores_and_equal_cores_are_all_used() {
        let mut files = vec![("proc/self/status".to_string(), "Cpus_allowed_list:\t0-7\n".to_string())];
        for (processor, capacity) in [325, 325, 325, 325, 828, 828, 828, 1024].into_iter().enumerate() {
            let path = format!("sys/devices/system/cpu/cpu{processor}/cpu_capacity");
            files.push((path, capacity.to_string()));
        }
        let files: Vec<(&str, &str)> =
            files.iter().map(|(path, text)| (path.as_str(), text.as_str())).collect();
        assert_eq!(Processors::read(machine(&files).path(), 8).threads(), 4);
        let equal = [files[0], (files[1].0, "1024"), (files[2].0, "1024")];
        assert_eq!(Processors::read(machine(&equal).path(), 8).threads(), 8);
    }

    #[test]
    fn nothing_known_and_nonsense_fall_back_to_the_standard_library() {
        assert_eq!(Processors::read(machine(&[]).path(), 3).threads(), 3);
        let nonsense = [("proc/self/status", "Cpus_allowed_list:\t,x-3,7-2,--\n")];
        assert_eq!(Processors::read(machine(&nonsense).path(), 2).threads(), 2);
        assert!(parse_list("0-99999999999").len() <= 1 << 16);
    }

    #[test]
    fn this_machine_has_a_processor() {
        let found = Processors::detect();
        assert!((1..=found.available.max(1)).contains(&found.threads()));
    }
}
