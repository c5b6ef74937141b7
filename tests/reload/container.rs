//! Containers, on Podman's Docker-compatible API, and in one table of processes.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use certkeep::cert::Fingerprint;
use certkeep::config::{ContainerAction, Reload, Signal};
use certkeep::failure::FailureClass;

use crate::support::pair::Pair;
use crate::support::pebble::pebble;
use crate::support::podman::Engine;
use crate::support::site::Site;
use crate::support::{PATIENCE, client, free_port, loopback, wait_until, write};
use crate::{LIMIT, reload};

/// nginx in a container, on a pair of files in a folder that it shares with the host
struct Nginx {
    name: String,
    address: SocketAddr,
}

impl Nginx {
    fn start(engine: &mut Engine, folder: &Path, pair: &Pair) -> Self {
        let address = SocketAddr::new(loopback(), free_port(loopback()));
        let settings = folder.join("nginx.conf");
        let text = SERVER
            .replace("SERVER", &address.to_string())
            .replace("FULLCHAIN", pair.fullchain.to_str().unwrap())
            .replace("KEY", pair.key.to_str().unwrap());
        write(&settings, text);
        let argv = ["nginx", "-g", "daemon off;", "-c", settings.to_str().unwrap()];
        let name = engine.run(&[], &[folder], &argv);
        let nginx = Self { name, address };
        wait_until("nginx answers", PATIENCE, || nginx.serves());
        nginx
    }

    fn serves(&self) -> Option<Fingerprint> {
        client::served(self.address, "a.test").ok()
    }

    #[track_caller]
    fn comes_to_serve(&self, leaf: Fingerprint) {
        wait_until("the container serves it", PATIENCE, || {
            (self.serves() == Some(leaf)).then_some(())
        });
    }
}

const SERVER: &str = "
pid /run/nginx.pid;
error_log /dev/null;
events { worker_connections 64; }
http {
    access_log off;
    server {
        listen SERVER ssl;
        ssl_certificate FULLCHAIN;
        ssl_certificate_key KEY;
        return 200 well;
    }
}
";

fn container(engine: PathBuf, name: &str, action: ContainerAction) -> Reload {
    Reload::Container { engine, name: name.to_owned(), action, timeout: LIMIT }
}

fn exec(argv: &[&str]) -> ContainerAction {
    ContainerAction::Exec(argv.iter().map(ToString::to_string).collect())
}

#[tokio::test]
async fn a_signal_or_a_command_reloads_the_server_in_a_container() {
    let (mut engine, folder) = (Engine::start(), crate::support::folder());
    let pair = Pair::in_dir(folder.path());
    pair.placeholder("a.test");
    let nginx = Nginx::start(&mut engine, folder.path(), &pair);
    let settings = folder.path().join("nginx.conf");
    let command = exec(&["nginx", "-c", settings.to_str().unwrap(), "-s", "reload"]);
    for action in [ContainerAction::Kill(Signal::Hup), command] {
        pair.placeholder("a.test");
        reload(&container(engine.socket(), &nginx.name, action), &[]).await.unwrap();
        nginx.comes_to_serve(pair.leaf().fingerprint);
    }
}

#[tokio::test]
async fn what_goes_wrong_in_a_container_is_told() {
    let mut engine = Engine::start();
    let name = engine.run(&[], &[], &["sleep", "1000000"]);
    let cases = [
        (name.as_str(), exec(&["sh", "-c", "echo out; echo err >&2; exit 3"]), "out | err"),
        (&name, exec(&["sh", "-c", "exit 3"]), "exited with status 3"),
        (&name, exec(&["no-such-program"]), "not found"),
        ("certkeep-none", exec(&["true"]), "there is none"),
        ("certkeep-none", ContainerAction::Kill(Signal::Hup), "there is none"),
    ];
    for (name, action, expected) in cases {
        let case = format!("{action:?}");
        let failure = reload(&container(engine.socket(), name, action), &[]).await.unwrap_err();
        assert_eq!(failure.class, FailureClass::Retry);
        assert!(failure.summary.as_str().contains(expected), "{case}: {failure}");
    }
    let slow = Reload::Container {
        engine: engine.socket(),
        name,
        action: exec(&["sleep", "1000000"]),
        timeout: Duration::from_millis(500),
    };
    let failure = reload(&slow, &[]).await.unwrap_err();
    assert!(failure.summary.as_str().contains("may still run in it"), "{failure}");
}

#[test]
fn certkeep_in_one_container_reloads_nginx_in_another_that_shares_its_processes() {
    let ca = pebble().start();
    let site = Site::new(&ca);
    let pair = Pair { fullchain: site.tls().join("site.pem"), key: site.tls().join("site.key") };
    pair.placeholder("a.test");
    let mut engine = Engine::start();
    let nginx = Nginx::start(&mut engine, site.path(), &pair);
    let before = nginx.serves();
    let trusted = site.path().join("ca.pem");
    write(&trusted, crate::support::read(ca.ca_file()));
    site.configure(&format!(
        "site:\n  names: [a.test]\n  files:\n  - {{ path: TLS/site.pem, content: fullchain }}\n  \
         - {{ path: TLS/site.key, content: key }}\n  deploy:\n    \
         reload: {{ signal: {{ name: HUP, process: nginx }} }}\n    \
         verify: [{{ endpoint: \"a.test:443\", connect: \"{}\", within: 10s }}]\n",
        nginx.address
    ));
    let configuration = crate::support::read(site.config());
    let there = configuration.replace(ca.ca_file().to_str().unwrap(), trusted.to_str().unwrap());
    write(site.config(), there);
    let binary = Path::new(env!("CARGO_BIN_EXE_certkeep"));
    let pid = format!("--pid=container:{}", nginx.name);
    let (program, config) = (binary.to_str().unwrap(), site.config());
    let argv = [program, "--config", config.to_str().unwrap(), "renew"];
    let output = engine.finish(&[&pid], &[site.path(), binary.parent().unwrap()], &argv);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stdout));
    assert_ne!(nginx.serves(), before);
    assert_eq!(nginx.serves(), Some(pair.leaf().fingerprint));
}
