//! What certkeep would do on this host, without doing any of it.
//!
//! ```sh
//! cargo run --example plan -- examples/nginx.yaml
//! ```

use std::error::Error;
use std::io::Write as _;
use std::path::Path;

use certkeep::clock::SystemClock;
use certkeep::config::Config;
use certkeep::plan;
use certkeep::report::Report;
use certkeep::store::Store;
use certkeep::time::Clock as _;

fn main() -> Result<(), Box<dyn Error>> {
    let path = std::env::args().nth(1).unwrap_or_else(|| "examples/minimal.yaml".to_owned());
    let text = planned(Path::new(&path))?;
    Ok(std::io::stdout().write_all(text.as_bytes())?)
}

/// The plan of a configuration file, as text
fn planned(path: &Path) -> Result<String, Box<dyn Error>> {
    let text = std::fs::read_to_string(path)?;
    // Every mistake at once, each with its line, its key and a remedy.
    let config = Config::parse(&text, &std::path::absolute(path)?)?;

    // What is on disk. Nothing is written, and nothing needs to exist yet.
    let mut noticed = String::new();
    let now = SystemClock.now();
    let store = Store::open_read_only(&config);
    let mut tell = |event| noticed += &format!("{event}\n");
    let (snapshot, _) = store.first_look(&config, now, false, &mut tell);

    // The planner is a function of its arguments: ask it about any other moment, too.
    let plan = plan::plan(now, &config, &snapshot);
    let report = Report::new(now, &plan, &snapshot);
    Ok(noticed + &report.plan())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fresh_host_is_told_what_is_missing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("certkeep.yaml");
        let minimal = std::fs::read_to_string("examples/minimal.yaml").unwrap();
        let text = minimal.replace("/etc/ssl", "tls") + "\nstate_dir: state\n";
        std::fs::File::create(&path).unwrap().write_all(text.as_bytes()).unwrap();
        let text = planned(&path).unwrap();
        assert!(text.contains("there is no certificate yet"), "{text}");
        assert!(text.contains("-> order a certificate"), "{text}");
    }
}
