//! A CA that only a proxy leads to.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod support;

use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::Command;

use support::pebble::{own_tls, pebble};
use support::process::Daemon;
use support::site::Site;
use support::{PATIENCE, folder, free_port, loopback, program, read, wait_until, write};
use tempfile::TempDir;

/// An Apache that leads to other servers
struct Proxy {
    folder: TempDir,
    address: SocketAddr,
    _master: Daemon,
}

impl Proxy {
    /// One that leads to this port, and is set up further with `FOLDER` for its own directory
    fn start(port: u16, settings: &str) -> Self {
        let folder = folder();
        let address = SocketAddr::new(loopback(), 0);
        let address = SocketAddr::new(address.ip(), free_port(address.ip()));
        own_tls(folder.path(), address.ip());
        write(folder.path().join("users"), "me:{SHA}87u9ZqY9S/F0eUBXjsPQEDUw4h0=\n");
        let settings = format!("{APACHE}Listen {address}\nAllowCONNECT {port}\n{settings}\n");
        let settings = settings.replace("FOLDER", folder.path().to_str().unwrap());
        write(folder.path().join("apache.conf"), settings);
        // One process, so that it ends with its value.
        let mut apache = Command::new(program("apache2"));
        apache.arg("-X").arg("-f").arg(folder.path().join("apache.conf"));
        let mut master = Daemon::start(&mut apache, &folder.path().join("output.log")).unwrap();
        wait_until("the proxy listens", PATIENCE, || {
            assert!(master.ended().is_none(), "{}", master.log());
            TcpStream::connect(address).ok()
        });
        Self { folder, address, _master: master }
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.folder.path().join(name)
    }

    /// What it was asked, by whom, and how it answered, when there is something like this
    fn was_asked(&self, what: &str) -> Vec<String> {
        wait_until(what, PATIENCE, || {
            let lines: Vec<_> = read(self.path("access.log")).lines().map(str::to_owned).collect();
            lines.iter().any(|line| line.contains(what)).then_some(lines)
        })
    }
}

const APACHE: &str = "
ServerName proxy.test
PidFile FOLDER/apache.pid
DefaultRuntimeDir FOLDER
User www-data
Group www-data
ErrorLog FOLDER/error.log
LogFormat \"%r %u %>s\" asked
CustomLog FOLDER/access.log asked
LoadModule mpm_event_module /usr/lib/apache2/modules/mod_mpm_event.so
LoadModule authn_core_module /usr/lib/apache2/modules/mod_authn_core.so
LoadModule authn_file_module /usr/lib/apache2/modules/mod_authn_file.so
LoadModule authz_core_module /usr/lib/apache2/modules/mod_authz_core.so
LoadModule authz_user_module /usr/lib/apache2/modules/mod_authz_user.so
LoadModule auth_basic_module /usr/lib/apache2/modules/mod_auth_basic.so
LoadModule proxy_module /usr/lib/apache2/modules/mod_proxy.so
LoadModule proxy_connect_module /usr/lib/apache2/modules/mod_proxy_connect.so
LoadModule socache_shmcb_module /usr/lib/apache2/modules/mod_socache_shmcb.so
LoadModule ssl_module /usr/lib/apache2/modules/mod_ssl.so
ProxyRequests On
";

const FOR_MEMBERS: &str = "<Proxy *>
AuthType Basic
AuthName members
AuthUserFile FOLDER/users
Require valid-user
</Proxy>";

fn port(directory: &str) -> u16 {
    directory.trim_end_matches("/dir").rsplit(':').next().unwrap().parse().unwrap()
}

#[test]
fn every_request_to_the_ca_goes_through_the_proxy_that_is_configured() {
    let ca = pebble().start();
    let proxy = Proxy::start(port(&ca.directory()), "");
    let site = Site::with_issuer(&ca, &format!("proxy: http://{}", proxy.address));
    site.configure_one(&["a.test"]);
    site.renew();
    let host = ca.directory().replace("https://", "").replace("/dir", "");
    let asked = proxy.was_asked("CONNECT");
    let expected = format!("CONNECT {host} HTTP/1.1 - 200");
    assert!(asked.iter().all(|line| *line == expected), "{asked:#?}");
    assert_eq!(ca.issued(), 1);
    // The CA is there all the same, and nobody goes around the proxy.
    let requests = ca.requests().len();
    let gone = proxy.address;
    drop(proxy);
    site.certkeep(&["renew", "--force"])
        .exits(1)
        .says(&[&format!("through the proxy http://{gone}/: "), "refused"]);
    assert_eq!(ca.requests().len(), requests);
}

#[test]
fn a_proxy_may_be_spoken_to_over_tls() {
    let ca = pebble().start();
    let proxy = Proxy::start(
        port(&ca.directory()),
        "SSLEngine on\nSSLCertificateFile FOLDER/tls.pem\nSSLCertificateKeyFile FOLDER/tls.key",
    );
    let site = Site::with_issuer(&ca, &format!("proxy: https://{}", proxy.address));
    site.configure_one(&["a.test"]);
    site.certkeep(&["renew"]).exits(1).says(&["through the proxy https://", "certificate"]);
    write(ca.ca_file(), read(ca.ca_file()) + &read(proxy.path("ca.pem")));
    site.certkeep(&["renew", "--force"]).succeeds();
    proxy.was_asked("CONNECT");
}

#[test]
fn a_proxy_of_the_environment_is_given_its_password_and_nobody_else_is() {
    let ca = pebble().start();
    let proxy = Proxy::start(443, FOR_MEMBERS);
    let site = Site::new(&ca);
    site.configure_one(&["a.test"]);
    let elsewhere = read(site.config()).replace(&ca.directory(), "https://ca.test/dir");
    write(site.config(), elsewhere);
    let renew = |password: &str| {
        let url = format!("http://me:{password}@{}", proxy.address);
        let renew = site.certkeep(&["renew", "--force"]).env("HTTPS_PROXY", &url);
        renew.exits(1).keeps_quiet_about(&["hunter", "bWU6"]).clone()
    };
    renew("hunter3").says(&["through the proxy of the environment", "authorization required"]);
    assert_eq!(proxy.was_asked(" 407"), ["CONNECT ca.test:443 HTTP/1.1 me 407"]);
    // It lets us in, and finds no such host.
    renew("hunter2").says(&["through the proxy of the environment"]);
    let asked = proxy.was_asked(" 50");
    assert!(asked.iter().any(|line| line.starts_with("CONNECT ca.test:443 HTTP/1.1 me 50")));
    let nowhere = |path: &Path| !read(path).contains("hunter");
    assert!(support::tree(&site.state()).keys().all(|path| nowhere(path)));
}
