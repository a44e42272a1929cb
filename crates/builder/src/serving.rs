//! Decides what serves a source: files alone, an entry for one of our servers, or its own command.
//!
//! The order is that of `docs/REFERENCE.md`: `entry:` of `app.yaml`, what is found in the source, `web:`
//! of a `Procfile`, files. With `server: none`, the `Procfile` and files are all that is looked for.

use std::collections::BTreeMap;

use ace_api::BuildError;
use ace_types::app_yaml::Entry;
use ace_types::{ServerChoice, StaticRule};

use crate::unpack::{Inspection, Procfile};

/// Where a command is to listen, unless `env:` says otherwise.
const DEFAULT_PORT: u16 = 8000;
/// The variable that tells it.
const PORT: &str = "PORT";

/// What is to serve a source.
#[derive(Debug, PartialEq)]
pub enum Found {
    /// The files of these rules, and nothing else.
    Files(Vec<StaticRule>),
    Program(Origin),
}

/// What a program begins with.
#[derive(Debug, PartialEq)]
pub enum Origin {
    Entry(Entry),
    Command(String),
}

/// What is to serve `source`, as far as `app.yaml` and the names of its files tell; `None` where it
/// has to be searched for an entry.
///
/// Errors: with `server: none`, that there is nothing of that kind.
pub fn told(source: &Inspection) -> Result<Option<Found>, BuildError> {
    let yaml = &source.app_yaml;
    if yaml.server == Some(ServerChoice::None) {
        return without_server(source).map(Some);
    }
    if let Some(entry) = &yaml.entry {
        return Ok(Some(Found::Program(Origin::Entry(entry.clone()))));
    }
    // Who declares static files and has no page at the top may have an app in a folder.
    Ok(files_alone(source).filter(|_| source.index_html).map(Found::Files))
}

/// What serves a source in which no entry was found: the command of its `Procfile`, or files alone.
///
/// Errors: that there is neither, with all that was `looked` for.
pub fn instead_of_entry(source: &Inspection, mut looked: Vec<String>) -> Result<Found, BuildError> {
    let is_free = source.app_yaml.server.is_none();
    match &source.procfile {
        Procfile::Read { web: Some(web), .. } if is_free => {
            return Ok(Found::Program(Origin::Command(web.clone())));
        }
        Procfile::Read { web: Some(_), .. } => {
            looked.push("the Procfile's web: is for \"server: none\"".to_owned());
        }
        procfile => looked.push(lack_of_web(procfile)),
    }
    if let Some(rules) = files_alone(source) {
        return Ok(Found::Files(rules));
    }
    let has_files = files(source).is_some();
    if !has_files {
        looked.push("there is no index.html".to_owned());
    }
    let by_itself = match source.has_python && source.procfile == Procfile::Absent {
        true => "; if it listens by itself, name its command in a Procfile: \"web: python app.py\"",
        false => "",
    };
    let or = if has_files { ", or serve files alone by \"server: none\"" } else { "" };
    Err(BuildError::Rejected(format!(
        "the source has nothing to serve that could be found: {}; name it in app.yaml, as in \
         \"entry: shop.wsgi:application\"{or}{by_itself}",
        looked.join(", ")
    )))
}

/// Where a command is to listen, by the app's `env:`.
pub fn port(env: &BTreeMap<String, String>) -> Result<u16, BuildError> {
    let Some(text) = env.get(PORT) else { return Ok(DEFAULT_PORT) };
    let port = text.parse().ok().filter(|port| *port > 0);
    port.ok_or_else(|| {
        BuildError::Rejected(format!(
            "app.yaml sets PORT to {text:?}, where the app's command can't listen; it can be from \
             1 to 65535"
        ))
    })
}

fn without_server(source: &Inspection) -> Result<Found, BuildError> {
    if let Some(web) = source.procfile.web() {
        return Ok(Found::Program(Origin::Command(web.to_owned())));
    }
    if let (Procfile::Read { .. } | Procfile::Absent, Some(rules)) =
        (&source.procfile, files(source))
    {
        return Ok(Found::Files(rules));
    }
    Err(BuildError::Rejected(format!(
        "app.yaml says \"server: none\", and there is nothing to serve without one: {}, there is \
         neither \"static:\" in app.yaml nor an index.html",
        lack_of_web(&source.procfile)
    )))
}

/// The files of a source in which nothing else is to be seen, nor asked for.
fn files_alone(source: &Inspection) -> Option<Vec<StaticRule>> {
    let is_free = source.app_yaml.server.is_none();
    let nothing_else = is_free && !source.has_python && source.procfile == Procfile::Absent;
    files(source).filter(|_| nothing_else)
}

/// The files that the source would be alone: those of `app.yaml`, or all beside its `index.html`.
fn files(source: &Inspection) -> Option<Vec<StaticRule>> {
    let rules = &source.app_yaml.statics;
    if !rules.is_empty() {
        return Some(rules.clone());
    }
    let all = StaticRule { path: "/".to_owned(), files: String::new(), expire: None };
    source.index_html.then(|| vec![all])
}

fn lack_of_web(procfile: &Procfile) -> String {
    match procfile {
        Procfile::Absent => "there is no Procfile".to_owned(),
        Procfile::Read { .. } => "the Procfile has no web:".to_owned(),
        Procfile::Wrong(wrong) => wrong.clone(),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use ace_types::{AppYaml, Server};

    use super::*;
    use crate::unpack::Requirements;

    fn source() -> Inspection {
        Inspection {
            app_yaml: AppYaml::default(),
            requirements: Requirements::None,
            ignored: Vec::new(),
            python: None,
            undescribed: false,
            manage_py: false,
            procfile: Procfile::Absent,
            named_python: None,
            has_python: false,
            index_html: true,
            source_hash: String::new(),
            entries: 1,
        }
    }

    fn with_server(server: ServerChoice, source: Inspection) -> Inspection {
        let app_yaml = AppYaml { server: Some(server), ..source.app_yaml };
        Inspection { app_yaml, ..source }
    }

    fn web() -> Procfile {
        Procfile::Read { web: Some("./run".to_owned()), release: None }
    }

    fn command(line: &str) -> Found {
        Found::Program(Origin::Command(line.to_owned()))
    }

    fn whole() -> Found {
        Found::Files(vec![StaticRule { path: "/".into(), files: "".into(), expire: None }])
    }

    #[test]
    fn a_folder_with_an_index_and_no_python_is_files_alone() {
        assert_eq!(told(&source()).unwrap(), Some(whole()));
        let rule = StaticRule { path: "/a/".into(), files: "a/".into(), expire: None };
        let mut own = source();
        own.app_yaml.statics = vec![rule.clone()];
        assert_eq!(told(&own).unwrap(), Some(Found::Files(vec![rule.clone()])));
        own.index_html = false;
        assert_eq!(told(&own).unwrap(), None);
        assert_eq!(instead_of_entry(&own, Vec::new()).unwrap(), Found::Files(vec![rule]));
        for other in [
            Inspection { has_python: true, ..source() },
            Inspection { index_html: false, ..source() },
            Inspection { procfile: web(), ..source() },
            Inspection { procfile: Procfile::Read { web: None, release: None }, ..source() },
            with_server(ServerChoice::Engine(Server::Uwsgi), source()),
        ] {
            assert_eq!(told(&other).unwrap(), None, "{other:?}");
        }
    }

    #[test]
    fn an_entry_goes_before_all_that_is_found() {
        let mut source = Inspection { procfile: web(), ..source() };
        source.app_yaml.entry = Some(Entry::default());
        let entry = Found::Program(Origin::Entry(Entry::default()));
        assert_eq!(told(&source).unwrap(), Some(entry));
    }

    #[test]
    fn without_a_server_it_is_the_command_or_files() {
        let none = |source| with_server(ServerChoice::None, source);
        let python = Inspection { has_python: true, ..source() };
        assert_eq!(told(&none(python)).unwrap(), Some(whole()));
        let own = none(Inspection { has_python: true, procfile: web(), ..source() });
        assert_eq!(told(&own).unwrap(), Some(command("./run")));
        let nothing = none(Inspection { index_html: false, ..source() });
        let error = told(&nothing).unwrap_err().to_string();
        assert!(error.contains("there is no Procfile, there is neither"), "{error}");
        let wrong = Procfile::Wrong("Procfile, line 7: no".to_owned());
        let error = told(&none(Inspection { procfile: wrong, ..source() })).unwrap_err();
        assert!(error.to_string().contains("Procfile, line 7: no"), "{error}");
    }

    #[test]
    fn the_command_stands_in_for_an_entry_that_is_not_there() {
        let python = Inspection { has_python: true, procfile: web(), ..source() };
        assert_eq!(instead_of_entry(&python, Vec::new()).unwrap(), command("./run"));
        let looked = || vec!["there is no index.py".to_owned()];
        let engine = with_server(ServerChoice::Engine(Server::Uwsgi), python);
        let error = instead_of_entry(&engine, looked()).unwrap_err().to_string();
        assert!(error.contains("no index.py, the Procfile's web: is for"), "{error}");
        let bare = Inspection { index_html: false, ..source() };
        let error = instead_of_entry(&bare, looked()).unwrap_err().to_string();
        let all = "there is no index.py, there is no Procfile, there is no index.html; name it";
        assert!(error.contains(all), "{error}");
        let files = Inspection { has_python: true, ..source() };
        let error = instead_of_entry(&files, looked()).unwrap_err().to_string();
        assert!(
            error.contains("or serve files alone by \"server: none\"; if it listens"),
            "{error}"
        );
    }

    #[test]
    fn the_port_is_the_apps_to_choose() {
        let port = |text: &str| port(&BTreeMap::from([(PORT.to_owned(), text.to_owned())]));
        assert_eq!(super::port(&BTreeMap::new()).unwrap(), DEFAULT_PORT);
        assert_eq!(port("5000").unwrap(), 5000);
        for bad in ["0", "70000", "http", ""] {
            assert!(port(bad).unwrap_err().to_string().contains("from 1 to 65535"), "{bad}");
        }
    }
}
