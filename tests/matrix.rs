//! The compiled binary, struck at every system call of a renewal that changes a file, speaks to
//! the network or starts a process: killed there, or told that the disk is full, broken or
//! closed, or that it has too many files open.
//!
//! The renewal is a forced one with two targets, symlinks at arbitrary paths and regular files,
//! three formats each, a check, a reload, and an endpoint that is asked. `tests/matrix/strike.c` runs it and strikes.
//!
//! No call is missed, whatever threads do beside each other: one renewal is recorded first, and
//! gives the list of points. A point is what a call does and the how-manieth call of all threads
//! that is, such as the third `fsync` of `state/certificates/site`; so it means the same in every
//! run. Each point has to be reported as struck. Only the calls on sockets are a few more or
//! fewer, as packets arrive; there a run that ended before its point is tried again.
//!
//! After each strike `tests/invariants`, which asks OpenSSL and nothing of ours, has to find whole
//! files that match at every path. Then certkeep runs again, undisturbed, and has to end with the
//! certificate live, the last reload on the files that are there, nothing left over, and one
//! certificate issued at most.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod support;

use std::collections::BTreeMap;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, OnceLock};
use std::time::Duration;

use rustix::io::Errno;

use support::host::{Host, Layout, Loads, beside};
use support::site::Output;
use support::{folder, on_one_line, program, read, tell};

#[test]
fn a_renewal_struck_at_any_system_call_is_finished_by_the_next() {
    strike_at_all(Scene::Renewal);
}

#[test]
fn a_takeover_struck_at_any_system_call_is_finished_by_the_next() {
    strike_at_all(Scene::Takeover);
}

#[test]
fn a_way_back_struck_at_any_system_call_is_finished_by_the_next() {
    strike_at_all(Scene::WayBack);
}

/// Try every point of a scene, or a sample of them
fn strike_at_all(scene: Scene) {
    let host = Host::with_endpoint(&LAYOUTS);
    scene.begin(&host);
    let (output, recorded) = struck(&host, scene, None);
    assert_eq!(output.code, Some(scene.code()), "{output}");
    drop(host);
    let all = points(&recorded, scene.strikes());
    let tried = if is_full() { all.clone() } else { sample(&all, scene) };
    let next = AtomicUsize::new(0);
    let faults = Mutex::new(Vec::new());
    let unreached = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..WORKERS {
            scope.spawn(|| {
                let mut host = Host::with_endpoint(&LAYOUTS);
                while let Some(point) = tried.get(next.fetch_add(1, Ordering::Relaxed)) {
                    match catch_unwind(AssertUnwindSafe(|| survive(&host, scene, point))) {
                        Ok(true) => (),
                        Ok(false) => unreached.lock().unwrap().push(point.to_string()),
                        Err(_) => {
                            faults.lock().unwrap().push(point.to_string());
                            host = Host::with_endpoint(&LAYOUTS);
                        }
                    }
                }
            });
        }
    });
    let faults = faults.into_inner().unwrap();
    assert!(faults.is_empty(), "{} points are not survived:\n{}", faults.len(), faults.join("\n"));
    let unreached = unreached.into_inner().unwrap();
    let struck = tried.len() - unreached.len();
    tell(&format!("crash matrix, {scene:?}: {struck} points of {}", all.len()));
    // What two threads do depends on the moment, and so how often some calls are made.
    let most = tried.len().div_ceil(50);
    assert!(unreached.len() <= most, "never made again:\n{}", unreached.join("\n"));
}

/// What is struck
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scene {
    /// A renewal that ends well
    Renewal,
    /// The first start on a host whose files another client left there
    Takeover,
    /// A renewal whose reload refuses the new files, so that the old come back
    WayBack,
}

impl Scene {
    fn begin(self, host: &Host) {
        match self {
            Self::Renewal => {}
            Self::Takeover => {
                host.flatten();
                host.site.lose_state();
            }
            Self::WayBack => host.write_reload(Loads::OnlyThese),
        }
    }

    fn arguments(self) -> &'static [&'static str] {
        match self {
            Self::Renewal | Self::WayBack => &["renew", "--force"],
            Self::Takeover => &["renew"],
        }
    }

    /// The exit code when nothing strikes
    fn code(self) -> i32 {
        i32::from(self == Self::WayBack)
    }

    fn strikes(self) -> &'static [Strike] {
        match self {
            Self::Renewal => &STRIKES,
            // What differs between errors is seen in the first.
            Self::Takeover | Self::WayBack => &[Strike::Kill, Strike::Refuse(Errno::IO)],
        }
    }
}

#[test]
fn the_instrument_strikes_the_call_that_it_is_told_to() {
    let place = folder();
    let base = place.path().display().to_string();
    let (file, log) = (place.path().join("0123456789abcdef"), place.path().join("log"));
    let script = format!("for i in a b c; do echo $i >>{}; done; true", file.display());
    let run = |strike: &[&str]| {
        drop(std::fs::remove_file(&file));
        let mut command = Command::new(self::strike());
        command.arg(&log).arg(&base).args(strike).args(["--", "/bin/sh", "-c", &script]);
        let status = command.stderr(Stdio::null()).status().unwrap();
        let struck = read(&log).lines().any(|line| line == "struck");
        (status.code(), read(&file), struck)
    };
    assert_eq!(run(&["none"]), (Some(0), "a\nb\nc\n".to_owned(), false));
    assert_eq!(read(&log).lines().filter(|line| *line == "write ~/*").count(), 3);
    assert_eq!(run(&["kill", "write ~/*", "2"]), (Some(137), "a\n".to_owned(), true));
    assert_eq!(run(&["28", "write ~/*", "2"]), (Some(0), "a\nc\n".to_owned(), true));
    assert_eq!(run(&["kill", "write ~/*", "4"]), (Some(0), "a\nb\nc\n".to_owned(), false));
}

/// The targets
const LAYOUTS: [Layout; 2] = [Layout::Links, Layout::Copies];

/// How many renewals run beside each other, each at a CA of its own
const WORKERS: usize = 2;

fn is_full() -> bool {
    std::env::var_os("CERTKEEP_TESTS").is_some()
}

/// What happens at a call
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Strike {
    Kill,
    Refuse(Errno),
}

impl fmt::Display for Strike {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kill => f.write_str("kill"),
            Self::Refuse(errno) => errno.raw_os_error().fmt(f),
        }
    }
}

const STRIKES: [Strike; 5] = [
    Strike::Kill,
    Strike::Refuse(Errno::NOSPC),
    Strike::Refuse(Errno::IO),
    Strike::Refuse(Errno::ACCESS),
    Strike::Refuse(Errno::MFILE),
];

/// Where a renewal is struck, and how
#[derive(Clone, Debug)]
struct Point {
    strike: Strike,
    call: String,
    count: usize,
}

impl fmt::Display for Point {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at `{}`, the call number {}", self.strike, self.call, self.count)
    }
}

/// Every strike at every call of a recorded renewal that it means something for
fn points(recorded: &[String], strikes: &[Strike]) -> Vec<Point> {
    let mut points = Vec::new();
    for &strike in strikes {
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        for call in recorded {
            let count = counts.entry(call).or_default();
            *count += 1;
            if is_meant(strike, call) {
                points.push(Point { strike, call: call.clone(), count: *count });
            }
        }
    }
    points
}

fn is_meant(strike: Strike, call: &str) -> bool {
    let reads = call.starts_with("openat-to-read ");
    match strike {
        // Nothing changes between two reads.
        Strike::Kill => !reads,
        // The pair of sockets by which it hears of signals is the runtime's own, which panics
        // when it cannot have them; certkeep sees beforehand that there is room for them.
        Strike::Refuse(_) if call == "socketpair" => false,
        // Outside of the host is the dynamic linker.
        Strike::Refuse(errno) if reads => {
            call.starts_with("openat-to-read ~") && matches!(errno, Errno::IO | Errno::MFILE)
        }
        Strike::Refuse(_) => true,
    }
}

/// Some kills and one error at each kind of call, in a renewal every kill that has to do with an
/// output, and in a way back every generation that cannot be read and journal that stays
fn sample(all: &[Point], scene: Scene) -> Vec<Point> {
    let mut kinds: BTreeMap<(bool, &str), Vec<&Point>> = BTreeMap::new();
    let mut chosen = Vec::new();
    for point in all {
        let kills = point.strike == Strike::Kill;
        let verb = point.call.split(' ').next().unwrap();
        let commits = ["linkat", "renameat", "symlinkat", "unlinkat"].contains(&verb)
            && (point.call.contains("~/tls/") || point.call.contains("/..data"));
        // What cannot be read is not to be taken for what is not there.
        let reads = !kills && point.call.contains("/generations/#/meta.json");
        // Nor what cannot be removed for what has not happened.
        let stays = !kills && verb == "unlinkat" && point.call.contains("/journal-");
        if (scene == Scene::Renewal && kills && commits)
            || (scene == Scene::WayBack && (reads || stays))
        {
            chosen.push(point.clone());
        } else {
            kinds.entry((kills, verb)).or_default().push(point);
        }
    }
    for (turn, ((kills, _), of_kind)) in kinds.iter().enumerate() {
        let last = of_kind.len() - 1;
        let mut places = match scene {
            Scene::Renewal if *kills => vec![0, last / 2, last],
            // A different place each time, and so a different error.
            _ => vec![turn * last / kinds.len()],
        };
        places.dedup();
        chosen.extend(places.into_iter().map(|place| of_kind[place].clone()));
    }
    chosen
}

/// A certkeep that the instrument watches, or strikes; and every call of it
fn struck(host: &Host, scene: Scene, point: Option<&Point>) -> (Output, Vec<String>) {
    let log = host.site.path().join("strike.log");
    let mut words = vec![strike().display().to_string(), log.display().to_string()];
    words.push(host.site.path().display().to_string());
    match point {
        None => words.push("none".to_owned()),
        Some(Point { strike, call, count }) => {
            words.extend([strike.to_string(), call.clone(), count.to_string()]);
        }
    }
    words.push("--".to_owned());
    let output = host.site.certkeep_under(words, scene.arguments()).within(PATIENCE).run();
    (output, read(log).lines().map(str::to_owned).collect())
}

/// Strike at this point, and let the next renewal finish what was begun; `false` if the call is
/// not made again
fn survive(host: &Host, scene: Scene, point: &Point) -> bool {
    for _ in 0..ATTEMPTS {
        let issued = host.ca.issued();
        scene.begin(host);
        let (output, calls) = struck(host, scene, Some(point));
        let is_struck = calls.iter().any(|call| call == "struck");
        let mut story = format!("{point}: {output}");
        let fair = match point.strike {
            Strike::Kill if is_struck => output.code == Some(137),
            _ => matches!(output.code, Some(0..=2 | 78)),
        };
        assert!(fair && !output.stderr.contains("panicked"), "{story}");
        host.assert_sound(true, &story);
        if scene == Scene::WayBack {
            let refused = finish(host);
            story = format!("{story}\nand then: {refused}");
            host.assert_sound(false, &story);
            host.assert_loaded(&story);
            host.write_reload(Loads::Everything);
        }
        let rest = finish(host);
        story = format!("{story}\nand then: {rest}");
        assert_eq!(rest.code, Some(0), "{story}");
        host.assert_sound(false, &story);
        host.assert_tidy(&story);
        host.assert_loaded(&story);
        assert_eq!(host.site.state_of("site"), "live", "{story}");
        let issued = host.ca.issued() - issued;
        let most = usize::from(scene != Scene::Takeover);
        assert!(issued <= most, "{issued} certificates: {story}");
        if is_struck {
            return true;
        }
    }
    false
}

/// The next renewal
fn finish(host: &Host) -> Output {
    let output = host.site.certkeep(&["renew"]).within(PATIENCE).run();
    // An attempt at an order that failed waits, as the README says.
    if on_one_line(&output.stdout).contains("`renew --force` tries at once") {
        return host.site.certkeep(&["renew", "--force"]).within(PATIENCE).run();
    }
    output
}

/// How long a disk may take that everything here writes to
const PATIENCE: Duration = Duration::from_secs(600);

/// How often a point is aimed at
const ATTEMPTS: usize = 20;

/// The program that strikes
fn strike() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
        let path = folder.join("strike");
        // Another test may be at it.
        let fresh = folder.join(format!("strike-{}", std::process::id()));
        let mut cc = Command::new(program("cc"));
        cc.args(["-std=gnu11", "-O1", "-Wall", "-Wextra", "-Werror", "-o"]).arg(&fresh);
        let output = cc.arg(beside("matrix/strike.c")).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        std::fs::rename(fresh, &path).unwrap();
        path
    })
}
