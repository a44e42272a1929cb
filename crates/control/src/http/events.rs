//! `GET /v1/events`: what has happened, page by page or as it happens.

use std::sync::Arc;

use ace_api::ErrorCode;
use ace_api::event::Event;
use ace_types::AppName;
use axum::Extension;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::HeaderMap;
use axum::response::Response;
use jiff::Timestamp;
use schemars::JsonSchema;
use serde::Deserialize;
use tokio::sync::mpsc;

use super::Shared;
use super::page::{LIMIT_MAX, limit_of};
use super::stream::{self, Form};
use crate::caller::Caller;
use crate::engine::Engine;
use crate::events::KEPT;
use crate::refusal::Refusal;
use crate::state;

/// The highest id that a JSON number has in every language.
const ID_MAX: u64 = (1 << 53) - 1;
/// Lists of events that may wait for a slow client.
const QUEUE: usize = 4;

#[derive(Deserialize, JsonSchema)]
pub struct EventsQuery {
    /// Only this app's, one that is gone included.
    app: Option<AppName>,
    /// Only those that came after this one; 0 for all there are.
    #[schemars(range(max = ID_MAX))]
    after: Option<u64>,
    /// Only those not older than this.
    since: Option<Timestamp>,
    /// How many at most; the newest, unless `after` or `since` says where to begin.
    #[schemars(range(min = 1, max = 1000))]
    limit: Option<u16>,
    /// Go on with what happens, until the client leaves.
    #[serde(default)]
    follow: bool,
}

pub async fn list(
    State(engine): Shared,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
    query: Result<Query<EventsQuery>, QueryRejection>,
) -> Result<Response, Refusal> {
    let query = query?.0;
    let form = Form::of(query.follow, &headers);
    let query = EventsQuery { after: query.after.or_else(|| last_seen(form, &headers)), ..query };
    let limit = limit_of(query.limit)?;
    let filter = Filter { caller, app: query.app, since: query.since };
    let state = engine.records.state().await?;
    if let Some(after) = query.after {
        if after > ID_MAX {
            return Err(Refusal::bad_request(format!("after can be 0 to {ID_MAX}")));
        }
        filter.check_after(&state, after)?;
    }
    let after = query.after.unwrap_or(0);
    let found: Vec<Event> = match (query.after, query.since) {
        (None, None) => {
            let mut newest: Vec<Event> = filter.newest_first(&state).take(limit).collect();
            newest.reverse();
            newest
        }
        _ => filter.after(&state, after).take(limit).collect(),
    };
    let (sender, receiver) = mpsc::channel(QUEUE);
    let seen = match (found.last(), query.after.or(query.since.map(|_| 0))) {
        (Some(last), _) => last.id,
        (None, Some(after)) => after,
        (None, None) => state.next_event() - 1,
    };
    let follow = query.follow;
    tokio::spawn(async move {
        if sender.send(found).await.is_ok() && follow {
            let following = Following { engine: Arc::clone(&engine), filter, sender, seen };
            following.run().await;
        }
    });
    Ok(stream::answer(form, receiver, |event: &Event| Some(event.id)))
}

/// The last event of a stream that a browser takes up again by itself.
fn last_seen(form: Form, headers: &HeaderMap) -> Option<u64> {
    let value = headers.get("last-event-id").filter(|_| form == Form::Events)?;
    value.to_str().ok()?.parse().ok()
}

/// Which events are asked for, and by whom.
struct Filter {
    caller: Caller,
    app: Option<AppName>,
    since: Option<Timestamp>,
}

impl Filter {
    fn fits(&self, event: &Event) -> bool {
        self.is_theirs(event)
            && self.app.as_ref().is_none_or(|app| event.app.as_ref() == Some(app))
            && self.since.is_none_or(|since| event.at >= since)
    }

    /// Whether there is such an event for who asks.
    fn is_theirs(&self, event: &Event) -> bool {
        match self.caller.tenant() {
            None => true,
            Some(tenant) => event.tenant.as_ref() == Some(tenant) && !event.what.is_of_a_token(),
        }
    }

    fn after(&self, state: &state::State, id: u64) -> impl Iterator<Item = Event> {
        state.events_after(id).filter(|event| self.fits(event)).map(|event| Event::clone(event))
    }

    fn newest_first(&self, state: &state::State) -> impl Iterator<Item = Event> {
        state.events().rev().filter(|event| self.fits(event)).map(|event| Event::clone(event))
    }

    /// Refuses an `after` from which events may be missing, or that no event of this engine has had.
    fn check_after(&self, state: &state::State, after: u64) -> Result<(), Refusal> {
        let newest = state.next_event() - 1;
        if after > newest {
            let message = format!(
                "there has been no event {after} yet; the newest is {newest}: ask without `after`"
            );
            return Err(Refusal::new(ErrorCode::EventsGone, message));
        }
        let mut theirs = state.events().filter(|event| self.is_theirs(event));
        let oldest = theirs.next().map_or(0, |event| event.id);
        let is_whole = theirs.count() + 1 < KEPT;
        if after == 0 || after >= oldest || is_whole {
            return Ok(());
        }
        let message = format!(
            "not all that came after event {after} is kept; the oldest that is is {oldest}: ask \
             without `after`"
        );
        Err(Refusal::new(ErrorCode::EventsGone, message))
    }
}

/// One client that goes on listening.
struct Following {
    engine: Arc<Engine>,
    filter: Filter,
    sender: mpsc::Sender<Vec<Event>>,
    /// The last event that was sent.
    seen: u64,
}

impl Following {
    /// Ends with the engine, too, and when nobody listens any more.
    async fn run(mut self) {
        let (engine, sender) = (Arc::clone(&self.engine), self.sender.clone());
        tokio::select! {
            () = self.send_all() => {}
            () = sender.closed() => {}
            () = engine.ended() => {}
        }
    }

    async fn send_all(&mut self) {
        loop {
            let Ok(state) = self.engine.records.state().await else { return };
            // Who is too slow is told so when it asks again.
            if self.filter.check_after(&state, self.seen).is_err() {
                return;
            }
            let mut watch = self.engine.records.watch(state.revision);
            let found: Vec<Event> =
                self.filter.after(&state, self.seen).take(LIMIT_MAX.into()).collect();
            let is_page = found.len() == usize::from(LIMIT_MAX);
            drop(state);
            if let Some(last) = found.last() {
                self.seen = last.id;
                if self.sender.send(found).await.is_err() {
                    return;
                }
            }
            if !is_page && watch.next().await.is_none() {
                return;
            }
        }
    }
}
