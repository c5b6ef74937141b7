//! Targets: the places where a certificate goes, each with its own deployment.

use crate::config::Target;
use crate::config::fault::{At, Faults, Refused};
use crate::config::lower::files::{self, Files, Placement};
use crate::config::lower::unique::Claim;
use crate::config::lower::{Context, deploy, reload};
use crate::config::raw::{RawCertificate, RawDeploy, RawTarget};
use crate::name::TargetName;

/// The targets of a certificate that the file calls `key`, in the order written
pub(super) fn targets<'a>(
    raw: &RawCertificate,
    key: &'a str,
    context: &Context<'_>,
    claims: &mut Vec<Claim<'a>>,
    at: &At<'_>,
    faults: &mut Faults,
) -> Result<Vec<Target>, Refused> {
    let Some(several) = &raw.targets else {
        if raw.serial.is_some() {
            faults.value(
                &at.key("serial"),
                "means nothing without `targets`",
                "take it out, or list the places under `targets`",
            );
        }
        let placement =
            Placement { dir: raw.dir.as_ref(), files: raw.files.as_deref(), copy: raw.copy };
        let files = files::files(key, &placement, context.base, at, faults);
        let claim = files.as_ref().ok().map(|files| Claim::new(key, None, files));
        let name = Ok(TargetName::default());
        let target = target(name, files, raw.deploy.as_ref(), context, at, faults);
        claims.extend(claim.map(|claim| claim.reloaded_as(target.as_ref().ok())));
        return Ok(vec![target?]);
    };
    let beside = [
        ("dir", raw.dir.is_some()),
        ("files", raw.files.is_some()),
        ("copy", raw.copy.is_some()),
        ("deploy", raw.deploy.is_some()),
    ];
    let mut outcome = Ok(());
    for (beside, _) in beside.iter().filter(|(_, is_there)| *is_there) {
        let remedy = "move it into an entry of `targets`";
        outcome = Err(faults.value(&at.key(beside), "cannot be beside `targets`", remedy));
    }
    let at = at.key("targets");
    if several.is_empty() {
        let remedy = "add a place, such as `{ name: web, dir: /etc/ssl/web }`";
        outcome = Err(faults.value(&at, "is empty", remedy));
    }
    let mut targets: Vec<Target> = Vec::with_capacity(several.len());
    for (index, raw) in several.iter().enumerate() {
        let at = at.index(index);
        let placement =
            Placement { dir: raw.dir.as_ref(), files: raw.files.as_deref(), copy: raw.copy };
        let files = files::files(key, &placement, context.base, &at, faults);
        let claim = files.as_ref().ok().map(|files| Claim::new(key, Some(index), files));
        let name = name(raw, &at, faults);
        let target = target(name, files, raw.deploy.as_ref(), context, &at, faults);
        claims.extend(claim.map(|claim| claim.reloaded_as(target.as_ref().ok())));
        match target {
            Ok(target) if targets.iter().any(|known| known.name == target.name) => {
                let message = format!("`{}` is there already", target.name);
                let remedy = "give each target a name of its own";
                outcome = Err(faults.value(&at.key("name"), message, remedy));
            }
            Ok(target) => targets.push(target),
            Err(refused) => outcome = Err(refused),
        }
    }
    outcome.map(|()| targets)
}

fn name(raw: &RawTarget, at: &At<'_>, faults: &mut Faults) -> Result<TargetName, Refused> {
    let Some(text) = &raw.name else {
        let remedy = "add a name of your choice: `name: web`";
        return Err(faults.missing(at, &["name"], "is missing", remedy));
    };
    TargetName::parse(text)
        .map_err(|error| faults.value(&at.key("name"), error.to_string(), "give it such a name"))
}

fn target(
    name: Result<TargetName, Refused>,
    files: Result<Files, Refused>,
    deploy: Option<&RawDeploy>,
    context: &Context<'_>,
    at: &At<'_>,
    faults: &mut Faults,
) -> Result<Target, Refused> {
    let deploy = deploy::deploy(deploy, context, &at.key("deploy"), faults);
    let (name, (layout, outputs), deploy) = (name?, files?, deploy?);
    let field = at.key("deploy");
    reload::certificate_for_haproxy(
        deploy.reload.as_ref(),
        &outputs,
        &field.key("reload"),
        faults,
    )?;
    Ok(Target {
        name,
        layout,
        outputs,
        check: deploy.check,
        reload: deploy.reload,
        verify: deploy.verify,
        max_reloads_per_hour: deploy.max_reloads_per_hour,
    })
}
