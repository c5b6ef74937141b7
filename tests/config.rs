//! Configuration files, from their text to what is meant or to every mistake in them.

#![expect(clippy::unwrap_used, reason = "a test that cannot read its files has failed")]

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use certkeep::config::{
    Address, ChallengeMethod, ChangeKind, Config, ContainerAction, Content, Endpoint, Format,
    HeaderSource, Hook, Http01, HttpBody, HttpCall, HttpMethod, Keep, KeyFormat, KeyType, Layout,
    Process, Profile, Reload, SecretSource, Share, Signal, Socket, StartTls, Target, Usage, schema,
};
use certkeep::name::{CertName, Identifier, IssuerName};
use proptest::prelude::*;
use serde_json::Value;

#[test]
fn every_example_is_read_and_fits_the_schema() {
    let fits = Schema::compile();
    for file in yaml_in("examples") {
        let text = fs::read_to_string(&file).unwrap();
        let shown = file.display();
        parse(&text, "/etc/certkeep/certkeep.yaml").unwrap_or_else(|errors| panic!("{errors}"));
        fits.check(&text).unwrap_or_else(|error| panic!("{shown}: {error}"));
    }
}

#[test]
fn every_valid_file_is_read_and_fits_the_schema() {
    let fits = Schema::compile();
    for file in yaml_in("tests/fixtures/config/valid") {
        let text = fs::read_to_string(&file).unwrap();
        let shown = file.display();
        parse(&text, "/etc/certkeep/certkeep.yaml").unwrap_or_else(|errors| panic!("{errors}"));
        fits.check(&text).unwrap_or_else(|error| panic!("{shown}: {error}"));
    }
}

#[test]
fn every_invalid_file_has_the_messages_beside_it() {
    let mut wrong = Vec::new();
    for file in yaml_in("tests/fixtures/config/invalid") {
        let text = fs::read_to_string(&file).unwrap();
        let name = Path::new("/etc/certkeep").join(file.file_name().unwrap());
        let errors = match Config::parse(&text, &name) {
            Ok(config) => format!("{config:#?}"),
            Err(errors) => errors.to_string(),
        };
        let expected = fs::read_to_string(file.with_extension("txt")).unwrap_or_default();
        if errors.trim_end() != expected.trim_end() {
            wrong.push(format!("--- {} says\n{errors}\n", file.display()));
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn a_byte_order_mark_changes_nothing() {
    for directory in ["valid", "invalid"] {
        for file in yaml_in(&format!("tests/fixtures/config/{directory}")) {
            let text = fs::read_to_string(&file).unwrap();
            let read = |text: &str| match parse(text, "certkeep.yaml") {
                Ok(config) => format!("{config:?}"),
                Err(errors) => errors.to_string(),
            };
            assert_eq!(read(&format!("\u{feff}{text}")), read(&text), "{}", file.display());
        }
    }
}

#[test]
fn every_mistake_of_form_is_one_for_the_schema_too() {
    let fits = Schema::compile();
    for name in ["misspelt", "kinds", "list", "tag", "follow-ups"] {
        let file = format!("tests/fixtures/config/invalid/{name}.yaml");
        let text = fs::read_to_string(&file).unwrap();
        assert!(fits.check(&text).is_err(), "{file}");
    }
}

#[test]
fn every_value_arrives_where_it_is_meant() {
    let text = fs::read_to_string("tests/fixtures/config/valid/every-key.yaml").unwrap();
    let config = parse(&text, "/etc/certkeep/certkeep.yaml").unwrap();
    assert_eq!(config.state_dir, Path::new("/etc/certkeep/state"));
    assert!(config.allow_volatile_state && config.allow_empty);

    let issuer = |name| config.issuer(&IssuerName::parse(name).unwrap()).unwrap();
    let all = issuer("all");
    assert_eq!(all.directory, "https://ca.example:9000/acme/directory?tenant=a&b=c");
    assert_eq!(all.contact, ["mailto:ops@example.com", "mailto:on.call+tls@xn--bcher-kva.example"]);
    assert_eq!(all.ca_file.as_deref(), Some(Path::new("/etc/certkeep/roots.pem")));
    assert_eq!(
        all.allowed_hosts,
        ["ra.example", "192.0.2.7", "ra.example:8443", "[2001:db8::7]:8443"]
    );
    assert_eq!(all.eab.as_ref().unwrap().key_id, "k-1");
    let environment = SecretSource::Environment("ACME_EAB_KEY".to_owned());
    assert_eq!(all.eab.as_ref().unwrap().hmac_key, environment);
    assert_eq!(all.profile, Some(Profile { name: "shortlived".to_owned(), required: true }));
    assert_eq!(all.proxy.as_deref(), Some("http://proxy.internal:3128/"));
    let staging = all.staging.as_ref().unwrap();
    assert_eq!(staging.directory, "https://staging.ca.example/directory");
    assert_eq!(staging.ca_file.as_deref(), Some(Path::new("/etc/certkeep/staging-roots.pem")));
    let file = SecretSource::File("/etc/certkeep/staging.hmac".into());
    assert_eq!(staging.eab.as_ref().map(|eab| &eab.hmac_key), Some(&file));
    let credential = issuer("credential");
    let google = credential.staging.as_ref().unwrap();
    assert_eq!(google.directory, "https://dv.acme-v02.test-api.pki.goog/directory");
    assert_eq!((&google.eab, &issuer("test").staging), (&None, &None));
    assert_eq!(credential.directory, "https://dv.acme-v02.api.pki.goog/directory");
    assert_eq!(credential.profile, Some(Profile { name: "standard".to_owned(), required: false }));
    let source = SecretSource::Credential("google-eab".to_owned());
    assert_eq!(credential.eab.as_ref().unwrap().hmac_key, source);
    assert!(issuer("test").insecure_loopback && !all.insecure_loopback);

    let certificate = |name| &config.certificates[&CertName::parse(name).unwrap()];
    let every = certificate("every-key");
    let names: Vec<_> = every.identifiers.iter().map(ToString::to_string).collect();
    let expected =
        ["example.com", "xn--bcher-kva.example", "192.0.2.1", "2001:db8::1", "2001:db8::2"];
    assert_eq!(names, expected);
    assert_eq!(every.key, KeyType::EcdsaP384);
    assert_eq!(every.issuers, ["credential", "all"].map(|name| IssuerName::parse(name).unwrap()));
    assert_eq!(every.profile, Some(Profile { name: "tlsserver".to_owned(), required: false }));
    let webroot = Http01::Webroot("/etc/certkeep/webroot".into());
    assert_eq!(every.challenge, ChallengeMethod::Http01(webroot));
    assert_eq!(every.renew.before, Some(Share::Span(Duration::from_secs(36 * 3600))));
    assert_eq!(every.renew.key_max_age, Some(Duration::from_secs(90 * 86_400)));
    let month = Duration::from_secs(30 * 86_400);
    assert_eq!(every.keep, Keep { generations: 12, at_least: month });
    let target = only_target(every);
    assert_eq!(target.layout, Layout::Copy);
    let outputs: Vec<_> = target
        .outputs
        .iter()
        .map(|output| {
            let path = output.path.to_str().unwrap().to_owned();
            let (owner, group) = (output.owner.as_deref(), output.group.as_deref());
            (path, output.content.as_slice(), &output.format, output.mode, owner, group)
        })
        .collect();
    let pem = Format::Pem(KeyFormat::Pkcs8);
    let der = Format::Der(KeyFormat::Pkcs8);
    let traditional = Format::Pem(KeyFormat::Traditional);
    let file = SecretSource::File("/etc/certkeep/key.password".into());
    let encrypted = Format::Der(KeyFormat::Encrypted(file));
    let pkcs12 = |password, alias: &str| Format::Pkcs12 { password, alias: alias.to_owned() };
    let credential = pkcs12(SecretSource::Credential("p12".to_owned()), "every-key");
    let environment = pkcs12(SecretSource::Environment("P12".to_owned()), "Für Java");
    let expected = [
        ("out/cert.pem", &[Content::Cert][..], &pem, 0o444, Some("root"), Some("0")),
        ("out/chain.pem", &[Content::Chain], &pem, 0o644, None, None),
        ("out/combined.pem", &[Content::Combined], &pem, 0o640, Some("1000"), Some("ssl-cert")),
        (
            "out/own.pem",
            &[Content::Key, Content::Cert, Content::Chain],
            &traditional,
            0o600,
            None,
            None,
        ),
        ("out/cert.der", &[Content::Cert], &der, 0o644, None, None),
        ("out/key.der", &[Content::Key], &encrypted, 0o600, None, None),
        ("out/one.p12", &[Content::Combined], &credential, 0o600, None, None),
        ("out/two.p12", &[Content::Combined], &environment, 0o640, None, None),
    ]
    .map(|(path, content, format, mode, owner, group)| {
        (format!("/etc/certkeep/{path}"), content, format, mode, owner, group)
    });
    assert_eq!(outputs, expected);
    let hook = |program: &str, arguments: &[&str], timeout| Hook {
        program: program.into(),
        arguments: arguments.iter().map(|&text| text.to_owned()).collect(),
        timeout: Duration::from_secs(timeout),
    };
    assert_eq!(target.check, Some(hook("/etc/certkeep/hooks/check", &["5"], 90)));
    let reload = Reload::Command(hook("/usr/bin/true", &["", "two words"], 10));
    assert_eq!(target.reload, Some(reload));
    let endpoint = |host, port, connect: Option<Address>, samples, within| Endpoint {
        host: Identifier::parse(host).unwrap(),
        port,
        connect,
        starttls: None,
        samples,
        within: Duration::from_secs(within),
    };
    let local = Address::Tcp("[::1]:443".parse().unwrap());
    let socket = Address::Unix("/run/app.sock".into());
    let expected = [
        endpoint("2001:db8::1", 8443, None, 2, 300),
        endpoint("example.com", 443, Some(local), 2, 90),
        endpoint("example.com", 443, Some(socket), 5, 300),
        Endpoint {
            starttls: Some(StartTls::Smtp),
            ..endpoint("mail.example.com", 587, None, 2, 300)
        },
    ];
    assert_eq!(target.verify, expected);

    let defaults = certificate("defaults");
    assert_eq!(defaults.key, KeyType::Rsa3072);
    assert_eq!(defaults.issuers, [IssuerName::parse("all").unwrap()]);
    assert_eq!(defaults.profile.as_ref().unwrap().name, "classic");
    assert_eq!(defaults.renew.before, Some(Share::PerMille(333)));
    assert_eq!(defaults.keep, Keep { generations: 3, at_least: month });
    let listen = Http01::Listen("127.0.0.1:8402".parse().unwrap());
    assert_eq!(defaults.challenge, ChallengeMethod::Http01(listen));
    let target = only_target(defaults);
    assert_eq!(target.layout, Layout::Dir("/etc/certkeep/live/a".into()));
    let outputs: Vec<_> =
        target.outputs.iter().map(|output| (output.path.to_str().unwrap(), output.mode)).collect();
    let expected = [
        ("/etc/certkeep/live/a/cert.pem", 0o644),
        ("/etc/certkeep/live/a/chain.pem", 0o644),
        ("/etc/certkeep/live/a/fullchain.pem", 0o644),
        ("/etc/certkeep/live/a/privkey.pem", 0o600),
    ];
    assert_eq!(outputs, expected);
    assert_eq!(target.check, Some(hook("nginx", &["-t"], 10)));
    let process = Process::Name { name: "nginx".to_owned(), user: None, cgroup: None };
    assert_eq!(target.reload, Some(Reload::Signal { signal: Signal::Winch, process }));

    let target = only_target(certificate("dir"));
    let outputs: Vec<_> = target
        .outputs
        .iter()
        .map(|output| {
            let (owner, group) = (output.owner.as_deref(), output.group.as_deref());
            (output.content.clone(), output.mode, owner, group)
        })
        .collect();
    let both = (0o640, Some("app"), Some("101"));
    let expected = [Content::Fullchain, Content::Key].map(|it| (vec![it], both.0, both.1, both.2));
    assert_eq!(outputs, expected);
    let unit = "app@b.service".to_owned();
    let reload = Reload::Systemd { unit, timeout: Duration::from_secs(120) };
    assert_eq!(target.reload, Some(reload));

    let way = |name| only_target(certificate(name)).reload.clone().unwrap();
    let timeout = |seconds| Duration::from_secs(seconds);
    let expected = Reload::Haproxy {
        socket: Socket::Unix("/run/haproxy/admin.sock".into()),
        certificate: Some("@shop/d.pem".to_owned()),
        timeout: timeout(15),
    };
    assert_eq!(way("haproxy"), expected);
    let socket = Socket::Tcp("127.0.0.1:9999".parse().unwrap());
    let expected = Reload::Haproxy { socket, certificate: None, timeout: timeout(10) };
    assert_eq!(way("haproxy-port"), expected);
    let text = |text: &str| HeaderSource::Text(text.to_owned());
    let call = HttpCall {
        method: HttpMethod::Put,
        url: "https://caddy.internal:2019/load?force=yes".parse().unwrap(),
        unix_socket: None,
        ca_file: Some("/etc/certkeep/roots.pem".into()),
        headers: [
            ("content-type", text("text/caddyfile")),
            ("x-who", text("certkeep, on e.test")),
            ("authorization", HeaderSource::File("/etc/certkeep/secrets/caddy".into())),
        ]
        .map(|(name, source)| (name.to_owned(), source))
        .into(),
        body: Some(HttpBody::File("/etc/caddy/Caddyfile".into())),
        expect: vec![200, 204],
        timeout: timeout(5),
    };
    assert_eq!(way("http"), Reload::Http(call));
    let call = HttpCall {
        method: HttpMethod::Post,
        url: "http://envoy/reload".parse().unwrap(),
        unix_socket: Some("/run/envoy.sock".into()),
        ca_file: None,
        headers: [].into(),
        body: Some(HttpBody::Text("now".to_owned())),
        expect: Vec::new(),
        timeout: timeout(10),
    };
    assert_eq!(way("http-socket"), Reload::Http(call));
    let container = |engine: &str, name: &str, action, seconds| Reload::Container {
        engine: engine.into(),
        name: name.to_owned(),
        action,
        timeout: timeout(seconds),
    };
    let expected =
        container("/run/podman/podman.sock", "web_1", ContainerAction::Kill(Signal::Hup), 10);
    assert_eq!(way("container"), expected);
    let exec = ContainerAction::Exec(["nginx", "-s", "reload"].map(str::to_owned).into());
    assert_eq!(way("container-exec"), container("/run/docker.sock", "web", exec, 20));
    assert_eq!(way("trigger"), Reload::Trigger("/etc/certkeep/run/reload-g".into()));
    let signal = |process: &str, user: &str, cgroup: Option<&str>| Reload::Signal {
        signal: Signal::Hup,
        process: Process::Name {
            name: process.to_owned(),
            user: Some(user.to_owned()),
            cgroup: cgroup.map(str::to_owned),
        },
    };
    let path = "/run/haproxy.pid".into();
    let process = Process::PidFile { path, name: Some("haproxy".to_owned()) };
    assert_eq!(way("pid-file"), Reload::Signal { signal: Signal::Usr2, process });
    assert_eq!(way("process"), signal("nginx", "33", Some("system.slice/nginx.service")));
    let target = only_target(certificate("preset"));
    let (check, reload) = (["validate"], ["reload", "--force"]);
    let configuration = ["--config", "/etc/caddy/Caddyfile"];
    let expected = hook("caddy", &[&check[..], &configuration].concat(), 10);
    assert_eq!(target.check, Some(expected));
    let expected = hook("caddy", &[&reload[..], &configuration].concat(), 20);
    assert_eq!(target.reload, Some(Reload::Command(expected)));
    let target = only_target(certificate("preset-check"));
    assert_eq!(target.check, Some(hook("true", &[], 10)));
    assert_eq!(target.reload, Some(signal("postgres", "postgres", None)));

    let plain = certificate("nothing-said");
    let everywhere = Http01::Listen("[::]:80".parse().unwrap());
    assert_eq!(plain.challenge, ChallengeMethod::Http01(everywhere));
    let target = only_target(plain);
    assert_eq!((&target.check, &target.reload), (&None, &None));
    assert!(target.verify.is_empty());

    let several = certificate("several");
    assert!(several.serial && several.gate.hard && !every.serial);
    assert_eq!(several.gate.roots.as_deref(), Some(Path::new("/etc/certkeep/roots.pem")));
    assert_eq!(several.gate.require.usage, [Usage::ServerAuth, Usage::ClientAuth].into());
    assert_eq!(several.gate.require.lifetime, Some(Duration::from_secs(30 * 86_400)));
    assert_eq!(several.gate.forbid, [ChangeKind::OtherRoot, ChangeKind::LostUsage].into());
    assert_eq!(every.gate.forbid, [ChangeKind::LostNames].into());
    let [canary, rest] = several.targets.as_slice() else { panic!("{:?}", several.targets) };
    assert_eq!((canary.name.as_str(), rest.name.as_str()), ("canary", "rest"));
    assert_eq!((canary.max_reloads_per_hour, rest.max_reloads_per_hour), (Some(6), None));
    assert_eq!(canary.layout, Layout::Dir("/etc/certkeep/live/canary".into()));
    assert_eq!(rest.layout, Layout::Copy);
}

#[test]
fn without_defaults_the_safe_choice_is_made() {
    let config = parse(MINIMAL, "/etc/certkeep/certkeep.yaml").unwrap();
    assert_eq!(config.state_dir, Path::new("/var/lib/certkeep"));
    assert!(!config.allow_volatile_state && !config.allow_empty);
    let certificate = config.certificates.values().next().unwrap();
    assert_eq!(certificate.key, KeyType::EcdsaP256);
    assert_eq!(certificate.issuers, [IssuerName::parse("le").unwrap()]);
    assert_eq!(certificate.profile, None);
    assert_eq!((certificate.renew.before, certificate.renew.key_max_age), (None, None));
}

#[test]
fn an_issuer_that_is_its_own_directory_for_tests_rehearses_with_its_external_account() {
    for staging in ["", ", staging: google-staging"] {
        let eab = "eab: { key_id: k, hmac_key_file: /k }";
        let text = format!(
            "issuers: {{ g: {{ directory: google-staging, accept_terms: true, {eab}{staging} }} }}\n\
             allow_empty: true\n"
        );
        let config = parse(&text, "certkeep.yaml").unwrap();
        let issuer = config.issuer(&IssuerName::parse("g").unwrap()).unwrap();
        assert!(issuer.eab.is_some());
        assert_eq!(issuer.staging.as_ref().unwrap().eab, issuer.eab, "{staging}");
    }
}

#[test]
fn errors_are_data_too() {
    let text = "state_dir: /\ncertificates:\n  a: 5\n";
    let errors = parse(text, "certkeep.yaml").unwrap_err();
    let json = serde_json::to_value(&errors).unwrap();
    let first = &json["errors"][0];
    assert_eq!(json["file"], "certkeep.yaml");
    assert_eq!((&first["line"], &first["column"]), (&Value::from(1), &Value::from(12)), "{json}");
    let second = &json["errors"][1];
    assert_eq!((&second["line"], &second["column"]), (&Value::from(3), &Value::from(6)), "{json}");
    assert_eq!(second["key"], "certificates.a");
    assert!(second["message"].is_string() && second["remedy"].is_string());
}

#[test]
fn a_secret_in_the_wrong_place_is_not_repeated() {
    for file in yaml_in("tests/fixtures/config/invalid") {
        let text = fs::read_to_string(&file).unwrap();
        let errors = parse(&text, "certkeep.yaml").unwrap_err();
        let shown = format!("{errors} {errors:?} {}", serde_json::to_string(&errors).unwrap());
        assert!(!shown.contains("hunter2"), "{}: {errors}", file.display());
    }
}

#[test]
fn nothing_of_a_hostile_file_steers_a_terminal() {
    let text = fs::read_to_string("tests/fixtures/config/invalid/control.yaml").unwrap();
    let shown = parse(&text, "certkeep.yaml").unwrap_err().to_string();
    assert!(shown.chars().all(|c| c == '\n' || !c.is_control() && c != '\u{202e}'), "{shown:?}");
}

#[test]
fn a_text_without_end_is_not_read() {
    let long = "# ".repeat(600_000);
    let errors = parse(&long, "certkeep.yaml").unwrap_err();
    assert!(errors.to_string().contains("at most 1048576"), "{errors}");
    let wide = format!("a: &a [{}]\nb: [{}]", "x, ".repeat(5000), "*a, ".repeat(5000));
    let errors = parse(&wide, "certkeep.yaml").unwrap_err();
    assert!(errors.to_string().contains("aliases"), "{errors}");
    let deep = "[".repeat(10_000);
    assert!(parse(&deep, "certkeep.yaml").is_err());
}

#[test]
fn brackets_without_end_are_refused_at_once() {
    for bracket in ["[", "{", "[{"] {
        let deep = format!("a: [x]\nb: {}", bracket.repeat(60_000));
        let errors = parse(&deep, "certkeep.yaml").unwrap_err();
        let first = &errors.errors[0];
        // The reader, which takes half a minute to say so, has other words for it.
        assert!(errors.to_string().contains("nested too deep"), "{errors}");
        assert_eq!((first.line, first.column), (2, 1));
    }
    for deep in ["- ".repeat(60_000), "? ".repeat(60_000)] {
        assert!(parse(&deep, "certkeep.yaml").is_err());
    }
    let closed = "  # [::1]:443 {}\n".repeat(5_000);
    parse(&format!("{closed}{MINIMAL}{closed}"), "certkeep.yaml").unwrap();
}

#[test]
fn a_thousand_certificates_and_a_thousand_mistakes_take_no_time() {
    let mut text = String::from(
        "issuers: { le: { directory: letsencrypt, accept_terms: true } }\ncertificates:\n",
    );
    for index in 0..1000 {
        text.push_str(&format!(
            "  h{index}:\n    names: [h{index}.test]\n    dir: /live/{index}\n"
        ));
    }
    assert_eq!(parse(&text, "certkeep.yaml").unwrap().certificates.len(), 1000);
    let wrong = text.replace("dir:", "dri:");
    // Quadratic, it takes minutes.
    let errors = parse(&wrong, "certkeep.yaml").unwrap_err();
    assert_eq!(errors.errors.len(), 1000);
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 400,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn no_text_panics(text in "\\PC{0,200}") {
        let errors = parse(&text, "certkeep.yaml");
        prop_assert!(errors.is_err() || text.contains("allow_empty"));
    }

    #[test]
    fn a_damaged_file_is_read_or_refused_with_a_place(changes in damage()) {
        let mut text: Vec<char> = EVERY_KEY.chars().collect();
        for (position, change) in changes {
            let position = position.index(text.len());
            let end = text.len().min(position + change.cut);
            text.splice(position..end, change.with.chars());
        }
        let text: String = text.into_iter().collect();
        if let Err(errors) = parse(&text, "certkeep.yaml") {
            prop_assert!(!errors.errors.is_empty());
            let lines = text.lines().count();
            for error in &errors.errors {
                prop_assert!(error.line >= 1 && error.line <= lines + 1, "{error}");
                prop_assert!(!error.message.is_empty() && !error.remedy.is_empty(), "{error}");
                prop_assert!(!error.message.contains("cannot be read\n"), "{error}");
                prop_assert!(!error.remedy.contains("bug"), "{error}");
            }
        }
    }
}

#[derive(Clone, Debug)]
struct Change {
    cut: usize,
    with: String,
}

fn damage() -> impl Strategy<Value = Vec<(prop::sample::Index, Change)>> {
    let with = prop_oneof![
        Just(String::new()),
        "[ -~\n\t]{1,3}",
        prop::sample::select(vec![
            "\n", "  ", ": ", "- ", "[", "]", "{", "}", "*a", "&a ", "!x ", "\"", "'", "#", "|",
            "null", "true", "7", "-1", "1.5", "~", "..", "/", "\0", "é", "names: ", "---\n",
        ])
        .prop_map(str::to_owned),
    ];
    let change = (0..6_usize, with).prop_map(|(cut, with)| Change { cut, with });
    prop::collection::vec((any::<prop::sample::Index>(), change), 1..4)
}

fn parse(text: &str, file: &str) -> Result<Config, certkeep::config::ConfigErrors> {
    Config::parse(text, Path::new(file))
}

fn only_target(certificate: &certkeep::config::Certificate) -> &Target {
    assert_eq!(certificate.targets.len(), 1);
    assert_eq!(certificate.targets[0].name.as_str(), "default");
    &certificate.targets[0]
}

fn yaml_in(directory: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<_> =
        entries.filter(|path| path.extension().is_some_and(|it| it == "yaml")).collect();
    files.sort();
    assert!(!files.is_empty(), "{directory}");
    files
}

/// The published schema, in an editor's place
struct Schema {
    schemas: boon::Schemas,
    index: boon::SchemaIndex,
}

impl Schema {
    fn compile() -> Self {
        let mut schemas = boon::Schemas::new();
        let mut compiler = boon::Compiler::new();
        compiler.add_resource("certkeep.json", schema()).unwrap();
        let index = compiler.compile("certkeep.json", &mut schemas).unwrap();
        Self { schemas, index }
    }

    fn check(&self, text: &str) -> Result<(), String> {
        let value: Value = serde_yaml::from_str(text).map_err(|error| error.to_string())?;
        let value = if value.is_null() { Value::Object(serde_json::Map::new()) } else { value };
        self.schemas.validate(&value, self.index).map_err(|error| error.to_string())
    }
}

const MINIMAL: &str = "\
issuers: { le: { directory: letsencrypt, accept_terms: true } }
certificates: { a: { names: [a.test], dir: /live/a } }
";

const EVERY_KEY: &str = include_str!("fixtures/config/valid/every-key.yaml");
