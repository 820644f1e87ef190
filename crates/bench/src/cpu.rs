//! What processes cost, from /proc.

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;

/// Processor time of some processes, in microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Used {
    /// In user mode and in the kernel.
    pub micros: u64,
}

/// How often it is looked at processes that end meanwhile.
const LOOKS: usize = 20;

/// Processor time of these processes and all that descend from them, also of those that have ended.
pub fn used(roots: &[u32]) -> Used {
    // What has ended is in its parent's time. One that ends between the looks at both would be in neither: then all is looked at again.
    let look = || {
        family(roots)
            .into_iter()
            .map(Stat::read)
            .collect::<Option<Vec<_>>>()
    };
    let whole = (0..LOOKS).find_map(|_| look());
    let stats = whole.unwrap_or_else(|| family(roots).into_iter().filter_map(Stat::read).collect());
    Used {
        micros: stats.iter().map(|stat| stat.micros).sum(),
    }
}

/// Processor time of this process alone.
pub fn used_here() -> Used {
    let own = Stat::read(std::process::id());
    Used {
        micros: own.map_or(0, |stat| stat.own_micros),
    }
}

/// Memory of these processes and all that descend from them, in MB. What they share is counted once where the system tells so.
pub fn resident_mb(roots: &[u32]) -> f64 {
    let kilobytes = family(roots).into_iter().filter_map(resident_kb);
    kilobytes.sum::<u64>() as f64 / 1024.0
}

/// The processes and all that descend from them.
fn family(roots: &[u32]) -> Vec<u32> {
    let mut children: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    for pid in entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok()) {
        if let Some(stat) = Stat::read(pid) {
            children.entry(stat.parent).or_default().push(pid);
        }
    }
    let (mut found, mut next) = (Vec::new(), roots.to_vec());
    while let Some(pid) = next.pop() {
        if !found.contains(&pid) {
            found.push(pid);
            next.extend(children.get(&pid).into_iter().flatten());
        }
    }
    found
}

struct Stat {
    parent: u32,
    own_micros: u64,
    /// With that of its children that have ended.
    micros: u64,
}

impl Stat {
    fn read(pid: u32) -> Option<Self> {
        Self::parse(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
    }

    /// The name of the program, in parentheses, may hold anything: the fields begin behind the last one.
    fn parse(text: &str) -> Option<Self> {
        let (_, fields) = text.rsplit_once(')')?;
        let fields: Vec<&str> = fields.split_whitespace().collect();
        let number = |index: usize| fields.get(index)?.parse::<u64>().ok();
        let per_second = rustix::param::clock_ticks_per_second().max(1);
        let micros = |ticks: u64| ticks.saturating_mul(1_000_000) / per_second;
        // utime, stime, cutime, cstime.
        let own = micros(number(11)? + number(12)?);
        Some(Self {
            parent: u32::try_from(number(1)?).ok()?,
            own_micros: own,
            micros: own + micros(number(13)? + number(14)?),
        })
    }
}

fn resident_kb(pid: u32) -> Option<u64> {
    let field = |file: &str, name: &str| {
        let text = fs::read_to_string(format!("/proc/{pid}/{file}")).ok()?;
        let line = text.lines().find_map(|line| line.strip_prefix(name))?;
        line.split_whitespace().next()?.parse().ok()
    };
    field("smaps_rollup", "Pss:").or_else(|| field("status", "VmRSS:"))
}

/// Whether the process holds the end of a TCP connection that has this address.
pub fn owns_connection(pid: u32, end: SocketAddr) -> bool {
    let Some(inode) = inode_of(end) else {
        return false;
    };
    let socket = format!("socket:[{inode}]");
    let open = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten();
    let mut links = open
        .flatten()
        .filter_map(|entry| fs::read_link(entry.path()).ok());
    links.any(|link| link.as_os_str() == socket.as_str())
}

/// The socket with this local address, which is one of IPv4.
fn inode_of(end: SocketAddr) -> Option<u64> {
    let SocketAddr::V4(end) = end else { return None };
    let wanted = format!("{:08X}:{:04X}", u32::from_ne_bytes(end.ip().octets()), end.port());
    let table = fs::read_to_string("/proc/net/tcp").ok()?;
    table.lines().skip(1).find_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        (*fields.get(1)? == wanted).then(|| fields.get(9)?.parse().ok())?
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_strange_name_does_not_shift_the_fields() {
        let ticks = rustix::param::clock_ticks_per_second();
        let text = format!("7 (a) (b c) S 3 7 7 0 -1 0 0 0 0 0 {ticks} {ticks} {ticks} 0 20 0 1 0 5 0 0");
        let stat = Stat::parse(&text).unwrap();
        assert_eq!(
            (stat.parent, stat.own_micros, stat.micros),
            (3, 2_000_000, 3_000_000)
        );
        assert!(Stat::parse("7 (a) S 3").is_none());
    }

    #[test]
    fn this_process_uses_time_and_memory() {
        let own = [std::process::id()];
        let before = used(&own).micros;
        let mut sum = 0_u64;
        while used(&own).micros < before + 30_000 {
            sum = (0..1_000_000_u64).fold(sum, |sum, number| sum ^ number.wrapping_mul(sum | 1));
        }
        assert_ne!(sum, 1);
        assert!(used_here().micros >= 30_000);
        assert!(resident_mb(&own) > 1.0);
        assert!(resident_mb(&[u32::MAX]) == 0.0);
    }

    /// Children that work for some ticks and end, again and again: what was used is never less than it was.
    #[test]
    fn what_has_ended_is_not_forgotten() {
        let busy = "i=0; while [ $i -lt 30000 ]; do i=$((i+1)); done";
        let children = std::thread::spawn(move || {
            for _ in 0..10 {
                let four = (0..4).map(|_| std::process::Command::new("sh").args(["-c", busy]).spawn());
                let four: Vec<_> = four.collect::<Result<_, _>>().unwrap();
                for mut child in four {
                    assert!(child.wait().unwrap().success());
                }
            }
        });
        let own = [std::process::id()];
        let (mut before, mut looks) = (0, 0);
        while !children.is_finished() {
            let now = used(&own).micros;
            assert!(now >= before, "{before} us, and then {now}");
            (before, looks) = (now, looks + 1);
        }
        children.join().unwrap();
        assert!(looks > 10, "{looks}");
    }

    #[test]
    fn connections_have_owners() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let stream = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let end = stream.local_addr().unwrap();
        assert!(owns_connection(std::process::id(), end));
        assert!(!owns_connection(1, end));
    }
}
