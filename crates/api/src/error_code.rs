//! Every code that an error of the API's can have, with the status it goes with and the way out.
//!
//! One table, of which the OpenAPI document and docs/API.md are made. Codes stay: programs go by them.

use std::fmt;

/// Makes the type of a table's rows: `Name = "code", status, "what it means", "the way out";`.
macro_rules! error_codes {
    ($($name:ident = $code:literal, $status:literal, $meaning:literal, $way_out:literal;)*) => {
        /// Why the API did not do what it was asked to. That an app could not be started has codes of its own,
        /// those of [`crate::EndReason::code`].
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum ErrorCode {
            $(#[doc = $meaning] $name,)*
        }

        impl ErrorCode {
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// For programs: `no_such_app`.
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$name => $code,)*
                }
            }

            /// The status of the answer that has it. What comes to light after events have begun is their last
            /// one, below a status of 200.
            pub fn status(self) -> u16 {
                match self {
                    $(Self::$name => $status,)*
                }
            }

            /// What has happened, in half a sentence.
            pub fn meaning(self) -> &'static str {
                match self {
                    $(Self::$name => $meaning,)*
                }
            }

            /// What to do about it.
            pub fn way_out(self) -> &'static str {
                match self {
                    $(Self::$name => $way_out,)*
                }
            }
        }
    };
}

error_codes! {
    BadRequest = "bad_request", 400, "a parameter or the body is not what is asked for", "the message says which and why";
    BadName = "bad_name", 400, "a name can't be one", "the message suggests another";
    UnknownParameter = "unknown_parameter", 400, "the query has a parameter that this path does not know", "leave it out, or see its spelling in the message";
    NoToken = "no_token", 401, "no token came with the request", "send `Authorization: Bearer ace_…`";
    WrongToken = "wrong_token", 401, "the token is wrong, has expired or was revoked", "make another: `ace token create`";
    TooManyAttempts = "too_many_attempts", 401, "the token is wrong, and many wrong ones came from that address", "wait for as long as `Retry-After` says";
    Forbidden = "forbidden", 403, "the token's role or tenant is not for that", "use a token of another role";
    NoSuchPath = "no_such_path", 404, "the API has no such path", "see `GET /v1/openapi.json`";
    NoSuchApp = "no_such_app", 404, "there is no app of that name, for this token", "`GET /v1/apps` lists them";
    NoSuchRelease = "no_such_release", 404, "the app has no such release any more", "`GET /v1/apps/{app}/releases` lists them";
    NoSuchBuild = "no_such_build", 404, "no build of that release is kept", "`GET /v1/apps/{app}/builds` lists them";
    NoSuchInstance = "no_such_instance", 404, "no log of that instance is kept", "ask for the app's without `instance`";
    NoSuchDomain = "no_such_domain", 404, "the app does not have that domain", "`GET /v1/apps/{app}/domains` lists them";
    NoSuchToken = "no_such_token", 404, "there is no token of that id", "`GET /v1/tokens` lists them";
    NoSuchMethod = "no_such_method", 405, "the path does not have that method", "`Allow` says which it has";
    TooSlow = "too_slow", 408, "the body did not come in time", "send it again";
    Contradiction = "contradiction", 409, "something is to be both set and unset, or added and removed", "ask for one of the two";
    NameTaken = "name_taken", 409, "another tenant's app has that name", "choose another name";
    BeingDestroyed = "being_destroyed", 409, "the app is being destroyed", "try again when it's gone";
    NoRelease = "no_release", 409, "the app has never been deployed with success", "deploy it";
    NoEarlierRelease = "no_earlier_release", 409, "no release served before this one", "name a release";
    NothingDeployed = "nothing_deployed", 409, "no release serves, so a command has nothing to run in", "deploy it";
    FilesAlone = "files_alone", 409, "the app is files alone, and no command can run in it", "deploy something with Python in it";
    Stopped = "stopped", 409, "the app is stopped", "start it: `POST /v1/apps/{app}/start`";
    PythonGone = "python_gone", 409, "the app's Python is no longer on the machine", "the message says how to get it back";
    UnfitPython = "unfit_python", 409, "what is at that path is no Python that apps can have", "the message says why";
    ConfigFull = "config_full", 409, "an app's variables have no more room", "unset some";
    DomainTaken = "domain_taken", 409, "another app has that domain, or another tenant's would overlap", "remove it there first";
    DomainReserved = "domain_reserved", 409, "that domain is the engine's own, or below it", "choose another";
    TooManyDomains = "too_many_domains", 409, "an app has no more than 100 domains", "remove some";
    TooManyTokens = "too_many_tokens", 409, "there are 10,000 tokens", "revoke some";
    BackupRunning = "backup_running", 409, "another backup is being made", "try again when it's done";
    EventsGone = "events_gone", 410, "what followed that event is no longer kept, or the event is none of this engine's", "ask without `after`";
    TooLarge = "too_large", 413, "the body is larger than it can be", "the message has the bound";
    UnsupportedMediaType = "unsupported_media_type", 415, "the body is of another media type than the path takes", "the message has the one to send";
    BuildFailed = "build_failed", 422, "the source could not be built", "the message and the build's log say why";
    PredeployFailed = "predeploy_failed", 422, "the app's `predeploy` failed", "its last lines are in the detail";
    StartFailed = "start_failed", 422, "the release did not start", "the message and the app's log say why";
    AboveCeiling = "above_ceiling", 422, "more is asked for than the operator allows an app, or a tenant's apps together", "ask for less; the message says how much there is";
    UpgradeRequired = "upgrade_required", 426, "a command was asked for without `Upgrade: ace-run`", "use `ace run`, or speak its frames";
    QueueFull = "queue_full", 429, "nine things are asked of the app already", "try again when one is done";
    TooManyCommands = "too_many_commands", 429, "the app, or the engine, has as many commands as it can", "try again when one has ended";
    EngineError = "engine_error", 500, "the engine could not do its part", "its log says why, by the request's id";
    DownIncomplete = "down_incomplete", 500, "not everything could be removed", "the detail says what is left; ask again";
    Busy = "busy", 503, "too many operations are under way", "try again in a minute";
    Full = "full", 503, "the engine has no user ids left for a further app", "destroy one";
    CommandStopped = "command_stopped", 503, "the command was ended from the engine's side", "the message says why";
    Stopping = "stopping", 503, "the engine is about to stop", "try again when it's back";
    StillBeingDestroyed = "still_being_destroyed", 504, "the app takes long to stop; it's being destroyed all the same", "ask for it until it's gone";
    NoStorage = "no_storage", 507, "the engine's disk is full, or can only be read", "make room on it";
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn the_page_of_the_api_has_every_code_and_no_other() {
        let page = include_str!("../../../docs/API.md");
        let rows =
            page.lines().filter(|line| line.starts_with("| `") && line.matches('|').count() == 5);
        let rows: Vec<&str> =
            rows.filter(|line| line.contains("` | 4") || line.contains("` | 5")).collect();
        let row = |code: &ErrorCode| {
            format!("| `{code}` | {} | {} | {} |", code.status(), code.meaning(), code.way_out())
        };
        assert_eq!(rows, ErrorCode::ALL.iter().map(row).collect::<Vec<_>>());
    }

    #[test]
    fn a_code_stands_for_one_thing_and_for_an_error() {
        let codes: BTreeSet<&str> = ErrorCode::ALL.iter().map(|code| code.as_str()).collect();
        assert_eq!(codes.len(), ErrorCode::ALL.len());
        assert!(ErrorCode::ALL.iter().all(|code| (400..600).contains(&code.status())));
    }
}
