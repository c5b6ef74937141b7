//! Reloading a systemd unit.

use std::time::Duration;

use super::command::{self, Invocation};
use crate::config::Hook;
use crate::failure::Failure;

/// `systemctl reload-or-restart`, which waits for the job and tells its result
pub(super) async fn reload(
    unit: &str,
    timeout: Duration,
    invocation: Invocation<'_>,
) -> Result<(), Failure> {
    if !is_one_unit(unit) {
        return Err(Failure::needs_operator(
            invocation.step,
            format!("`{}` is no unit's name", unit.escape_debug()),
            "name one unit with its suffix, such as nginx.service",
        ));
    }
    let arguments = ["--no-ask-password", "reload-or-restart", "--", unit];
    let hook = Hook {
        program: "systemctl".into(),
        arguments: arguments.map(str::to_owned).into(),
        timeout,
    };
    Ok(command::run(&hook, invocation).await?)
}

/// Whether systemctl takes it for one unit: it would expand `*`, `?` and `[` to many
fn is_one_unit(unit: &str) -> bool {
    !unit.is_empty() && unit.bytes().all(|b| b.is_ascii_alphanumeric() || b":_.@\\-".contains(&b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_is_no_unit() {
        for unit in ["nginx.service", "postgresql@15-main.service", r"a\x2db.service"] {
            assert!(is_one_unit(unit), "{unit}");
        }
        for unit in ["", "*", "nginx?.service", "[a].service", "a b", "a;b", "a\n", "../a"] {
            assert!(!is_one_unit(unit), "{unit:?}");
        }
    }
}
