//! Names besides its own at which an app answers.

use ace_api::ErrorCode;
use ace_api::http::DomainChange;
use ace_store::Op;
use ace_types::{AppName, Domain, HostName, TenantName};
use jiff::Timestamp;

use crate::names;
use crate::refusal::Refusal;
use crate::rows::{AppRow, DomainRow};
use crate::state::{Row, State, create};

/// Domains that an app may have.
const DOMAINS_MAX: usize = 100;

/// Does all of `change` to the domains of `app`, if it's one of `tenant`'s. `own` is the domain below which the engine gives each app its name.
pub fn change_domains(
    state: &State,
    app: &AppName,
    tenant: Option<&TenantName>,
    own: &HostName,
    change: &DomainChange,
    now: Timestamp,
) -> Result<Vec<Op>, Refusal> {
    let theirs = state.app(app).filter(|row| tenant.is_none_or(|tenant| row.tenant == *tenant));
    let row = theirs.ok_or_else(|| names::no_such_app(state, app, tenant))?;
    if row.destroying {
        return Err(Refusal::being_destroyed(app));
    }
    if let Some(both) = change.add.iter().find(|name| change.remove.contains(name)) {
        let message = format!("{both} can't be both added and removed");
        return Err(Refusal::new(ErrorCode::Contradiction, message));
    }
    let (mut added, mut removed) = (Vec::new(), Vec::new());
    for name in unique(&change.remove) {
        let held = state.domain(name).filter(|held| held.app == *app);
        removed.push(held.ok_or_else(|| no_such_domain(app, name))?.delete());
    }
    for name in unique(&change.add) {
        check_free(state, row, own, name)?;
        if state.domain(name).is_none() {
            added.push(create(&domain_row(row, name, now)));
        }
    }
    if state.domains_of(app).count() + added.len() > DOMAINS_MAX + removed.len() {
        return Err(too_many());
    }
    let mut ops = removed;
    ops.extend(added);
    if !ops.is_empty() {
        // As it is: so that the app can't be destroyed in between and leave a domain behind.
        ops.push(row.replace(row));
    }
    Ok(ops)
}

fn unique(names: &[Domain]) -> impl Iterator<Item = &Domain> {
    names.iter().enumerate().filter(|(i, name)| !names[..*i].contains(name)).map(|(_, name)| name)
}

fn domain_row(app: &AppRow, name: &Domain, now: Timestamp) -> DomainRow {
    let (app, tenant) = (app.name.clone(), app.tenant.clone());
    DomainRow { name: name.clone(), app, tenant, added_at: now }
}

/// Refuses a name that is not for `app`: the engine's own, another app's, and whatever would lead requests
/// for another tenant's names here or the other way round.
fn check_free(state: &State, app: &AppRow, own: &HostName, name: &Domain) -> Result<(), Refusal> {
    if name.host().is_within(own)
        || (name.is_wildcard() && own.parent() == Some(name.host().as_str()))
    {
        return Err(reserved(name, own));
    }
    if let Some(held) = state.domain(name).filter(|held| held.app != app.name) {
        return Err(taken(name, app, held));
    }
    let others = state.domains().filter(|row| row.tenant != app.tenant);
    match others.into_iter().find(|row| row.name.overlaps(name)) {
        Some(held) => Err(taken(name, app, held)),
        None => Ok(()),
    }
}

/// Names another tenant's app to nobody.
fn taken(name: &Domain, app: &AppRow, held: &Row<DomainRow>) -> Refusal {
    let message = if held.tenant != app.tenant {
        format!("{name} is not free; choose another name")
    } else {
        format!(
            "{name} belongs to {0}; remove it there first: ace domains {0} remove {name}",
            held.app
        )
    };
    Refusal::new(ErrorCode::DomainTaken, message)
}

fn reserved(name: &Domain, own: &HostName) -> Refusal {
    let message = format!("{name} is the engine's: apps answer at NAME.{own} by themselves");
    Refusal::new(ErrorCode::DomainReserved, message)
}

fn no_such_domain(app: &AppName, name: &Domain) -> Refusal {
    let message = format!("{app} has no domain {name}; `ace domains {app}` lists those it has");
    Refusal::new(ErrorCode::NoSuchDomain, message)
}

fn too_many() -> Refusal {
    let message = format!("an app can have {DOMAINS_MAX} domains; remove one that is not needed");
    Refusal::new(ErrorCode::TooManyDomains, message)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::changes::{begin_destroy, forget_app};
    use crate::testing::{Rows, at, config, deploy, name};

    fn domains(text: &str) -> Vec<Domain> {
        text.split_whitespace().map(|name| name.parse().unwrap()).collect()
    }

    /// Changes the domains of `app`; says the error's code.
    fn change(state: &mut Rows, app: &str, add: &str, remove: &str) -> Result<(), String> {
        let change = DomainChange { add: domains(add), remove: domains(remove) };
        let ops = change_domains(state, &name(app), None, &config().domain, &change, at(0));
        state.commit(ops.map_err(|refusal| refusal.error.code)?);
        Ok(())
    }

    fn names(state: &Rows, app: &str) -> String {
        let app = name(app);
        let names = state.domains_of(&app).map(|row| row.name.to_string());
        names.collect::<Vec<_>>().join(" ")
    }

    fn two_apps() -> Rows {
        let mut state = Rows::default();
        deploy(&mut state, "shop", 1);
        deploy(&mut state, "blog", 2);
        state
    }

    #[test]
    fn a_change_is_done_as_a_whole_or_not_at_all() {
        let mut state = two_apps();
        change(&mut state, "shop", "a.com b.com a.com", "").unwrap();
        change(&mut state, "shop", "c.com b.com", "a.com").unwrap();
        assert_eq!(names(&state, "shop"), "b.com c.com");
        assert_eq!(change(&mut state, "shop", "d.com", "e.com").unwrap_err(), "no_such_domain");
        assert_eq!(change(&mut state, "shop", "d.com", "d.com").unwrap_err(), "contradiction");
        assert_eq!(names(&state, "shop"), "b.com c.com");
    }

    #[test]
    fn a_domain_is_one_app_s() {
        let mut state = two_apps();
        change(&mut state, "shop", "a.com *.a.com", "").unwrap();
        assert_eq!(change(&mut state, "blog", "a.com", "").unwrap_err(), "domain_taken");
        assert_eq!(change(&mut state, "blog", "", "a.com").unwrap_err(), "no_such_domain");
        change(&mut state, "blog", "blog.a.com", "").unwrap();
        change(&mut state, "shop", "", "a.com").unwrap();
        change(&mut state, "blog", "a.com", "").unwrap();
    }

    #[test]
    fn a_wildcard_takes_nothing_of_another_tenant_s() {
        let mut state = two_apps();
        change(&mut state, "shop", "*.a.com www.b.com", "").unwrap();
        let tenant = "other".parse().unwrap();
        let blog = state.app(&name("blog")).unwrap();
        let op = blog.replace(&AppRow { tenant, ..AppRow::clone(blog) });
        state.commit(vec![op]);
        for taken in ["www.a.com", "*.a.com", "*.b.com", "www.b.com"] {
            assert_eq!(change(&mut state, "blog", taken, "").unwrap_err(), "domain_taken");
        }
        change(&mut state, "blog", "a.com b.com", "").unwrap();
    }

    #[test]
    fn the_engine_s_own_names_are_not_for_an_app() {
        let mut state = two_apps();
        let own: HostName = "apps.example.com".parse().unwrap();
        for reserved in
            ["apps.example.com", "blog.apps.example.com", "*.apps.example.com", "*.example.com"]
        {
            let change = DomainChange { add: domains(reserved), ..DomainChange::default() };
            let refused = change_domains(&state, &name("shop"), None, &own, &change, at(0));
            assert_eq!(refused.unwrap_err().error.code, "domain_reserved", "{reserved}");
        }
        change(&mut state, "shop", "example.com", "").unwrap();
    }

    #[test]
    fn they_have_a_bound_and_go_with_their_app() {
        let mut state = two_apps();
        let many = |n: usize| (0..n).map(|i| format!("n{i}.com ")).collect::<String>();
        assert_eq!(change(&mut state, "shop", &many(101), "").unwrap_err(), "too_many_domains");
        change(&mut state, "shop", &many(100), "").unwrap();
        change(&mut state, "shop", &many(100), "").unwrap();
        assert_eq!(change(&mut state, "shop", "x.com", "").unwrap_err(), "too_many_domains");
        change(&mut state, "shop", "x.com", "n0.com").unwrap();
        state.commit(begin_destroy(&state, &name("shop"), None).unwrap());
        assert_eq!(change(&mut state, "shop", "y.com", "").unwrap_err(), "being_destroyed");
        state.commit(forget_app(&state, &name("shop")));
        assert_eq!(state.domains().count(), 0);
    }
}
