//! What `README.md` promises: its snippets are read, its tables are whole, its tests exist.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use certkeep::cli::{Arguments, Exit};
use certkeep::config::{self, Config};
use clap::CommandFactory as _;

#[test]
fn every_configuration_in_it_is_read() {
    let readme = readme();
    let snippets = blocks(&readme, "yaml");
    assert!(snippets.len() >= 2, "{} configurations", snippets.len());
    for snippet in snippets {
        let parsed = Config::parse(&snippet, Path::new("/etc/certkeep/certkeep.yaml"));
        parsed.unwrap_or_else(|errors| panic!("{snippet}\n{errors}"));
    }
}

#[test]
fn the_first_configuration_has_ten_lines_at_most() {
    let first = blocks(&readme(), "yaml").remove(0);
    assert!(first.lines().count() <= 10, "{first}");
}

#[test]
fn every_key_of_the_configuration_has_a_row_and_every_row_a_key() {
    let schema = config::schema();
    let mut wanted = BTreeMap::from([("Top level".to_owned(), keys(&schema))]);
    for (name, definition) in schema["$defs"].as_object().unwrap() {
        wanted.insert(name.clone(), keys(definition));
        // A map that one key alone has is written into that key.
        for (key, value) in definition["properties"].as_object().into_iter().flatten() {
            wanted.insert(key.clone(), keys(value));
        }
    }
    let presets = schema["$defs"]["Preset"]["enum"].as_array().unwrap();
    let names = presets.iter().map(|name| name.as_str().unwrap().to_owned());
    wanted.insert("Presets".to_owned(), names.collect());
    wanted.retain(|_, keys| !keys.is_empty());
    let readme = readme();
    let reference = section(&readme, "## Configuration reference");
    let mut found: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let mut heading = String::new();
    for line in reference.lines() {
        if let Some(title) = line.strip_prefix("### ") {
            title.clone_into(&mut heading);
        } else if let Some(row) = line.strip_prefix("| `") {
            let key = row.split('`').next().unwrap().to_owned();
            assert!(found.entry(heading.clone()).or_default().insert(key), "twice: {line}");
        }
    }
    assert_eq!(found, wanted);
}

#[test]
fn the_page_that_the_units_name_is_installed() {
    let unit = std::fs::read_to_string(root().join("systemd/certkeep.service")).unwrap();
    assert!(unit.contains("Documentation=man:certkeep(1)"), "{unit}");
    for (file, heading) in [("README.md", "## Install"), ("systemd/README.md", "## The agent")] {
        let text = std::fs::read_to_string(root().join(file)).unwrap();
        let written = section(&text, heading).contains("certkeep man > /usr/local/share/man/man1/");
        assert!(written, "{file}");
    }
}

#[test]
fn every_command_has_a_row() {
    let readme = readme();
    let table = section(&readme, "## Commands");
    for command in Arguments::command().get_subcommands().filter(|c| !c.is_hide_set()) {
        let name = command.get_name();
        let row = table.lines().filter(|line| line.starts_with('|')).any(|line| {
            let cell = line.split('|').nth(1).unwrap();
            cell.split('`').any(|code| code.split(' ').next() == Some(name))
        });
        assert!(row, "`{name}` has no row");
    }
}

#[test]
fn the_exit_codes_are_those_of_the_program() {
    let all = [Exit::Well, Exit::Failed, Exit::Unexpected, Exit::Held, Exit::Configuration]
        .map(Exit::code);
    let readme = readme();
    let listed: Vec<u8> = section(&readme, "### Exit codes")
        .lines()
        .filter_map(|line| line.split('|').nth(1)?.trim().parse().ok())
        .collect();
    assert_eq!(listed, all);
}

#[test]
fn every_variable_of_a_hook_has_a_row() {
    let context = std::fs::read_to_string(root().join("src/deploy/context.rs")).unwrap();
    let code = context.split("#[cfg(test)]").next().unwrap();
    let readme = readme();
    let table = section(&readme, "## What a check or a reload is told");
    let variables: Vec<_> = code.split("\"CERTKEEP_").skip(1).collect();
    assert!(variables.len() > 10, "{} variables", variables.len());
    for variable in variables {
        let name = variable.split('"').next().unwrap();
        let short = name.strip_prefix("FILE").unwrap_or(name);
        let listed = [format!("`CERTKEEP_{name}`"), format!("`{short}`")];
        assert!(listed.iter().any(|listed| table.contains(listed)), "no CERTKEEP_{name}");
    }
}

#[test]
fn every_test_that_it_names_exists() {
    let readme = readme();
    let rows: Vec<_> = section(&readme, "## When things go wrong")
        .lines()
        .filter(|line| line.starts_with("| ") && !line.starts_with("| what happens"))
        .collect();
    assert!(rows.len() > 20, "{} rows", rows.len());
    let source = source();
    for row in rows {
        let named: Vec<_> = row.rsplit('|').nth(1).unwrap().split('`').skip(1).step_by(2).collect();
        assert!(!named.is_empty(), "no test shows: {row}");
        for name in named {
            // Those of the booted machine are a list of names.
            let exists = source.contains(&format!("fn {name}("))
                || source.contains(&format!("\n    {name}\n"));
            assert!(exists, "there is no test `{name}`");
        }
    }
}

#[test]
fn every_link_leads_somewhere() {
    let readme = readme();
    let headings: BTreeSet<String> = readme
        .lines()
        .filter_map(|line| line.strip_prefix('#'))
        .map(|title| title.trim_start_matches('#').trim().to_lowercase().replace(' ', "-"))
        .collect();
    for link in readme.split("](").skip(1).map(|rest| rest.split(')').next().unwrap()) {
        match link.strip_prefix('#') {
            Some(heading) => assert!(headings.contains(heading), "no heading #{heading}"),
            None if link.starts_with("https://") => {}
            None => assert!(root().join(link).exists(), "there is no {link}"),
        }
    }
}

/// The contents of the fenced blocks of a language
fn blocks(text: &str, language: &str) -> Vec<String> {
    let fence = format!("```{language}\n");
    let begun = text.split(&fence).skip(1);
    begun.map(|rest| rest.split("```").next().unwrap().to_owned()).collect()
}

/// From a heading to the next one of its level
fn section<'a>(text: &'a str, heading: &str) -> &'a str {
    let start = text.find(&format!("{heading}\n")).unwrap_or_else(|| panic!("no {heading}"));
    let rest = &text[start + heading.len()..];
    let level = format!("\n{} ", heading.split(' ').next().unwrap());
    &rest[..rest.find(&level).unwrap_or(rest.len())]
}

fn keys(definition: &serde_json::Value) -> BTreeSet<String> {
    let properties = definition["properties"].as_object();
    properties.into_iter().flat_map(|all| all.keys().cloned()).collect()
}

fn readme() -> String {
    std::fs::read_to_string(root().join("README.md")).unwrap()
}

/// Every Rust file of `src/` and `tests/`
fn source() -> String {
    let mut text = String::new();
    let mut folders: Vec<PathBuf> = ["src", "tests"].map(|name| root().join(name)).into();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|end| end == "rs") {
                text.push_str(&std::fs::read_to_string(&path).unwrap());
            }
        }
    }
    text
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}
