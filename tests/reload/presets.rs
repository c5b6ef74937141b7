//! The presets, word for word, against servers that are where their packages put them.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use certkeep::cert::Fingerprint;
use certkeep::config::{Config, Target};
use certkeep::deploy;
use certkeep::failure::Failure;

use crate::support::client::Load;
use crate::support::pair::Pair;
use crate::support::pebble::{Pebble, pebble};
use crate::support::process::Daemon;
use crate::support::site::Site;
use crate::support::world::{enter, run};
use crate::support::{PATIENCE, client, free_port, loopback, program, read, wait_until, write};
use crate::{Deployed, postgres, reload};

/// A pair of files in `/run/tls`, and an address for the server
struct Server {
    pair: Pair,
    address: SocketAddr,
    target: Target,
    starttls: Option<Option<&'static str>>,
}

impl Server {
    fn of(preset: &str) -> Self {
        std::fs::create_dir("/run/tls").unwrap();
        let pair = Pair::in_dir(Path::new("/run/tls"));
        pair.placeholder("a.test");
        let text = format!(
            "issuers: {{ le: {{ directory: letsencrypt, accept_terms: true }} }}\n\
             certificates:\n  a: {{ names: [a.test], dir: /run/tls, \
             deploy: {{ reload: {{ preset: {preset} }} }} }}\n"
        );
        let config = Config::parse(&text, Path::new("/etc/certkeep/certkeep.yaml")).unwrap();
        let target = config.certificates.into_values().next().unwrap().targets.remove(0);
        let address = SocketAddr::new(loopback(), free_port(loopback()));
        Self { pair, address, target, starttls: None }
    }

    /// Look with OpenSSL, after a STARTTLS of this protocol if one is named
    fn seen_by_openssl(mut self, starttls: Option<&'static str>) -> Self {
        self.starttls = Some(starttls);
        self
    }

    /// Put a configuration in its place, with addresses and files filled in
    fn configure(&self, path: &str, text: &str) {
        let text = text
            .replace("ADDRESS", &self.address.to_string())
            .replace("HOST", &self.address.ip().to_string())
            .replace("PORT", &self.address.port().to_string())
            .replace("FULLCHAIN", self.pair.fullchain.to_str().unwrap())
            .replace("KEY", self.pair.key.to_str().unwrap());
        std::fs::create_dir_all(Path::new(path).parent().unwrap()).unwrap();
        write(path, text);
    }

    fn serves(&self) -> Option<Fingerprint> {
        match self.starttls {
            None => client::served(self.address, "a.test").ok(),
            Some(starttls) => client::shown(self.address, starttls).ok(),
        }
    }

    #[track_caller]
    fn comes_to_serve_its_files(&self) {
        let leaf = self.pair.leaf().fingerprint;
        wait_until("the server serves what is in its files", PATIENCE, || {
            (self.serves() == Some(leaf)).then_some(())
        });
    }

    async fn check(&self) -> Result<(), Failure> {
        let Some(check) = &self.target.check else { return Ok(()) };
        Ok(deploy::check(check, &[], &|_| ()).await?)
    }

    /// A new pair, checked, reloaded and seen
    async fn takes_over_a_new_pair(&self) {
        self.comes_to_serve_its_files();
        self.pair.placeholder("a.test");
        self.load().await;
        self.comes_to_serve_its_files();
    }

    async fn load(&self) {
        deploy::preflight(&self.target).unwrap();
        self.check().await.unwrap();
        let files = Deployed::new("a", &[]);
        reload(self.target.reload.as_ref().unwrap(), &[&files]).await.unwrap();
    }

    /// Renewals by the compiled binary: one that is proven, one that meets a server whose
    /// configuration somebody broke, one that makes up for it, and further rows of the table of
    /// decisions
    async fn is_kept_alive(&self, preset: &str, starttls: Option<&str>, settings: &str) {
        self.pair.placeholder("a.test");
        let (_ca, site) = renewed(preset, self.address, starttls, "root");
        self.comes_to_serve_its_files();
        let (before, whole) = (self.pair.leaf().fingerprint, read(settings));
        write(settings, format!("{whole}\n}} nothing that it knows\n"));
        let said = site.certkeep(&["renew", "--force"]).exits(1);
        said.says(&["its configuration is broken, whatever the certificate"]);
        assert_eq!((self.pair.leaf().fingerprint, self.serves()), (before, Some(before)), "{said}");
        write(settings, whole);
        site.renew();
        assert_ne!(self.pair.leaf().fingerprint, before);
        self.comes_to_serve_its_files();
        let configure =
            |deploy: &str| configure_with(&site, self.address, starttls, "root", deploy);
        self.goes_back(&site, &configure, preset);
        // Caddy hangs up on those who are in the middle of a handshake.
        if self.starttls.is_none() && preset != "caddy" {
            self.is_renewed_under_load(&site);
        }
    }

    /// What the server refuses goes back; what it does not load stays and is not called live
    fn goes_back(&self, site: &Site, configure: &dyn Fn(&str), preset: &str) {
        let before = self.pair.leaf().fingerprint;
        let same = "[cmp, -s, /run/tls/fullchain.pem, /run/pinned.pem]";
        std::fs::copy(&self.pair.fullchain, "/run/pinned.pem").unwrap();
        for deploy in [
            format!("reload: {{ preset: {preset} }}, check: {same}"),
            "reload: [\"false\"]".to_owned(),
        ] {
            configure(&deploy);
            let said = site.certkeep(&["renew", "--force"]).exits(1);
            said.says(&["the previous files are back"]);
            assert_eq!(self.pair.leaf().fingerprint, before, "{said}");
            assert_eq!(self.serves(), Some(before), "{said}");
        }
        configure("reload: [\"true\"]");
        let said = site.certkeep(&["renew", "--force"]).exits(1);
        said.says(&["still serves the one before"]);
        assert_eq!((self.serves(), site.state_of("site")), (Some(before), "installed".to_owned()));
        configure(&format!("reload: {{ preset: {preset} }}"));
        site.renew();
        assert_ne!(self.pair.leaf().fingerprint, before);
        self.comes_to_serve_its_files();
    }

    fn is_renewed_under_load(&self, site: &Site) {
        let load = Load::start(2, self.address, "a.test");
        site.certkeep(&["renew", "--force"]).succeeds();
        let (live, new) = (Instant::now(), self.pair.leaf().fingerprint);
        wait_until("the clients go on", PATIENCE, || {
            (live.elapsed().as_millis() > 300).then_some(())
        });
        let seen = load.stop();
        assert!(seen.failures.is_empty(), "of {}: {:?}", seen.leaves.len(), seen.failures);
        assert_eq!(seen.after(live), [new], "{} handshakes", seen.leaves.len());
    }

    /// Fail unless the check refuses a key of another certificate
    async fn refuses_another_key(&self) {
        let key = rcgen::KeyPair::generate().unwrap();
        write(&self.pair.key, key.serialize_pem());
        self.check().await.unwrap_err();
    }
}

/// A host on which certkeep has brought a first certificate to the server that has `/run/tls`
fn renewed(
    preset: &str,
    address: SocketAddr,
    starttls: Option<&str>,
    owner: &str,
) -> (Pebble, Site) {
    let ca = pebble().start();
    let site = Site::new(&ca);
    configure(&site, preset, address, starttls, owner);
    site.renew().says(&["proven by handshake with 1 address"]);
    (ca, site)
}

fn configure(site: &Site, preset: &str, address: SocketAddr, starttls: Option<&str>, owner: &str) {
    let deploy = format!("reload: {{ preset: {preset} }}");
    configure_with(site, address, starttls, owner, &deploy);
}

fn configure_with(
    site: &Site,
    address: SocketAddr,
    starttls: Option<&str>,
    owner: &str,
    deploy: &str,
) {
    let starttls = starttls.map(|it| format!("starttls: {it}, ")).unwrap_or_default();
    site.configure(&format!(
        "site:\n  names: [a.test]\n  files:\n  \
         - {{ path: /run/tls/fullchain.pem, content: fullchain }}\n  \
         - {{ path: /run/tls/privkey.pem, content: key, owner: {owner} }}\n  deploy: {{ {deploy}, verify: [\
         {{ endpoint: \"a.test:443\", {starttls}connect: \"{address}\", within: 5s }}] }}\n"
    ));
}

#[tokio::test]
async fn the_preset_of_nginx_is_right() {
    if !enter("presets::the_preset_of_nginx_is_right") {
        return;
    }
    let server = Server::of("nginx");
    std::fs::create_dir_all("/var/log/nginx").unwrap();
    server.configure("/etc/nginx/nginx.conf", NGINX);
    run(&["nginx"]);
    server.takes_over_a_new_pair().await;
    server.refuses_another_key().await;
    server.is_kept_alive("nginx", None, "/etc/nginx/nginx.conf").await;
}

const NGINX: &str = "
events { worker_connections 64; }
http {
    access_log off;
    server {
        listen ADDRESS ssl;
        ssl_certificate FULLCHAIN;
        ssl_certificate_key KEY;
        return 200 well;
    }
}
";

#[tokio::test]
async fn the_preset_of_apache_is_right() {
    if !enter("presets::the_preset_of_apache_is_right") {
        return;
    }
    let server = Server::of("apache");
    run(&["mkdir", "-p", "/var/log/apache2", "/run/lock"]);
    server.configure("/etc/apache2/apache2.conf", APACHE);
    run(&["apachectl", "start"]);
    server.takes_over_a_new_pair().await;
    // It opens the files and does not compare them.
    std::fs::remove_file(&server.pair.key).unwrap();
    server.check().await.unwrap_err();
    server.is_kept_alive("apache", None, "/etc/apache2/apache2.conf").await;
}

const APACHE: &str = "
ServerName a.test
PidFile ${APACHE_PID_FILE}
DefaultRuntimeDir ${APACHE_RUN_DIR}
User ${APACHE_RUN_USER}
Group ${APACHE_RUN_GROUP}
ErrorLog /var/log/apache2/error.log
LoadModule mpm_event_module /usr/lib/apache2/modules/mod_mpm_event.so
LoadModule authz_core_module /usr/lib/apache2/modules/mod_authz_core.so
LoadModule socache_shmcb_module /usr/lib/apache2/modules/mod_socache_shmcb.so
LoadModule ssl_module /usr/lib/apache2/modules/mod_ssl.so
Listen ADDRESS
SSLEngine on
SSLCertificateFile FULLCHAIN
SSLCertificateKeyFile KEY
";

#[tokio::test]
async fn the_preset_of_caddy_is_right() {
    if !enter("presets::the_preset_of_caddy_is_right") {
        return;
    }
    let server = Server::of("caddy");
    server.configure("/etc/caddy/Caddyfile", CADDY);
    let mut caddy = Command::new(program("caddy"));
    caddy.args(["run", "--config", "/etc/caddy/Caddyfile"]).env("HOME", "/run");
    let _caddy = Daemon::start(&mut caddy, Path::new("/var/log/caddy.log")).unwrap();
    server.takes_over_a_new_pair().await;
    server.refuses_another_key().await;
    server.is_kept_alive("caddy", None, "/etc/caddy/Caddyfile").await;
}

const CADDY: &str = "{
 admin unix//run/caddy.sock
 auto_https off
}
https://a.test:PORT {
 bind HOST
 tls FULLCHAIN KEY
 respond well
}
";

#[tokio::test]
async fn the_preset_of_postfix_is_right() {
    if !enter("presets::the_preset_of_postfix_is_right") {
        return;
    }
    let server = Server::of("postfix").seen_by_openssl(Some("smtp"));
    server.configure("/etc/postfix/main.cf", POSTFIX);
    server.configure("/etc/postfix/master.cf", POSTFIX_MASTER);
    run(&["mkdir", "-p", "/var/spool/postfix"]);
    run(&["postfix", "set-permissions"]);
    run(&["postfix", "start"]);
    server.takes_over_a_new_pair().await;
    server.is_kept_alive("postfix", Some("smtp"), "/etc/postfix/main.cf").await;
}

/// Its processes do not end by themselves, as they do after a hundred connections otherwise
const POSTFIX: &str = "
compatibility_level = 3.6
max_use = 1000000
myhostname = a.test
mydestination =
alias_maps =
alias_database =
inet_interfaces = loopback-only
queue_directory = /var/spool/postfix
data_directory = /run/postfix
smtpd_tls_security_level = may
smtpd_tls_chain_files = KEY, FULLCHAIN
";

const POSTFIX_MASTER: &str = "
ADDRESS   inet  n - n - 1 smtpd
pickup    unix  n - n 60 1 pickup
cleanup   unix  n - n - 0 cleanup
qmgr      unix  n - n 300 1 qmgr
tlsmgr    unix  - - n 1000? 1 tlsmgr
rewrite   unix  - - n - - trivial-rewrite
anvil     unix  - - n - 1 anvil
proxymap  unix  - - n - - proxymap
postlog   unix-dgram n - n - 1 postlogd
";

#[tokio::test]
async fn the_preset_of_dovecot_is_right() {
    if !enter("presets::the_preset_of_dovecot_is_right") {
        return;
    }
    let server = Server::of("dovecot").seen_by_openssl(None);
    server.configure("/etc/dovecot/dovecot.conf", DOVECOT);
    run(&["dovecot"]);
    server.takes_over_a_new_pair().await;
    // It opens the files and does not compare them.
    std::fs::remove_file(&server.pair.key).unwrap();
    server.check().await.unwrap_err();
    server.is_kept_alive("dovecot", None, "/etc/dovecot/dovecot.conf").await;
}

const DOVECOT: &str = "
protocols = imap
log_path = /var/log/dovecot.log
ssl = required
ssl_cert = <FULLCHAIN
ssl_key = <KEY
service imap-login {
  inet_listener imap {
    port = 0
  }
  inet_listener imaps {
    address = HOST
    port = PORT
    ssl = yes
  }
}
";

#[tokio::test]
async fn the_preset_of_postgresql_is_right() {
    if !enter("presets::the_preset_of_postgresql_is_right") {
        return;
    }
    let server = Server::of("postgresql");
    postgres::hand_over(&server.pair);
    let postgres = postgres::Postgres::start(&server.pair);
    let before = postgres.serves();
    server.pair.placeholder("a.test");
    server.load().await;
    let new = server.pair.leaf().fingerprint;
    assert_ne!(new, before);
    wait_until("PostgreSQL serves it", PATIENCE, || (postgres.serves() == new).then_some(()));
    let (_ca, site) = renewed("postgresql", postgres.address(), Some("postgres"), "postgres");
    assert_eq!(postgres.serves(), server.pair.leaf().fingerprint);
    // It keeps what it has where it cannot read the new, and says so in its log alone.
    configure(&site, "postgresql", postgres.address(), Some("postgres"), "nobody");
    let before = postgres.serves();
    site.certkeep(&["renew", "--force"]).exits(1).says(&["still serves the one before"]);
    assert_eq!((postgres.serves(), site.state_of("site").as_str()), (before, "installed"));
}

/// The unit of its preset is systemd's, and there is none in here
#[tokio::test]
async fn the_check_of_haproxy_s_preset_is_right() {
    if !enter("presets::the_check_of_haproxy_s_preset_is_right") {
        return;
    }
    let server = Server::of("haproxy");
    let combined = "/run/tls/combined.pem";
    let combine = || {
        write(combined, read(&server.pair.key) + &read(&server.pair.fullchain));
    };
    combine();
    server.configure("/etc/haproxy/haproxy.cfg", HAPROXY);
    server.check().await.unwrap();
    let key = rcgen::KeyPair::generate().unwrap();
    write(&server.pair.key, key.serialize_pem());
    combine();
    server.check().await.unwrap_err();
    let unit = certkeep::config::Reload::Systemd {
        unit: "haproxy.service".to_owned(),
        timeout: std::time::Duration::from_secs(60),
    };
    assert_eq!(server.target.reload, Some(unit));
}

const HAPROXY: &str = "
defaults
  mode http
  timeout connect 5s
  timeout client 5s
  timeout server 5s
frontend site
  bind ADDRESS ssl crt /run/tls/combined.pem
";
