//! What a look at the host or at the state directory found.

use serde::Serialize;

use crate::cli::{Context, Exit, Stop};
use crate::failure::{Failure, FailureClass};
use crate::report;
use crate::text::{External, fitting};

/// Something that is wrong, or that is worth knowing
#[derive(Debug, Serialize)]
pub(crate) struct Finding {
    severity: Severity,
    /// The part of the configuration or of the state directory that it is about
    about: String,
    message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    remedy: Option<External>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Severity {
    Error,
    Info,
}

impl Severity {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Info => "info",
        }
    }
}

impl Finding {
    pub(crate) fn error(about: impl Into<String>, failure: &Failure) -> Self {
        let remedy = match &failure.class {
            FailureClass::NeedsOperator { what, .. } => Some(what.clone()),
            _ => None,
        };
        let message = failure.summary.to_string();
        Self { severity: Severity::Error, about: about.into(), message, remedy }
    }

    /// The same, where it is no step that fails
    pub(crate) fn wrong(
        about: impl Into<String>,
        message: impl Into<String>,
        remedy: impl AsRef<str>,
    ) -> Self {
        let remedy = Some(External::new(remedy));
        Self { severity: Severity::Error, about: about.into(), message: message.into(), remedy }
    }

    pub(crate) fn info(about: impl Into<String>, message: String) -> Self {
        Self { severity: Severity::Info, about: about.into(), message, remedy: None }
    }
}

/// What is printed with `--json`
#[derive(Serialize)]
struct Findings<'a> {
    version: u32,
    findings: &'a [Finding],
}

/// Print what was found, and `verdict` if nothing of it is an error
pub(crate) fn conclude(
    context: &Context,
    findings: &[Finding],
    looked_at: impl std::fmt::Display,
    verdict: &str,
) -> Result<Exit, Stop> {
    let well = findings.iter().all(|finding| finding.severity != Severity::Error);
    let exit = if well { Exit::Well } else { Exit::Failed };
    if context.json {
        context.print_json(&Findings { version: report::VERSION, findings })?;
        return Ok(exit);
    }
    let mut text = String::new();
    for Finding { severity, about, message, remedy } in findings {
        let severity = severity.as_str();
        fitting(&mut text, 4, &format!("{severity}: {about}: {message}"));
        if let Some(remedy) = remedy {
            fitting(&mut text, 4, &format!("  hint: {remedy}"));
        }
    }
    let verdict = if well { verdict } else { "see above" };
    fitting(&mut text, 0, &format!("{looked_at} checked: {verdict}"));
    context.print(&text)?;
    Ok(exit)
}
