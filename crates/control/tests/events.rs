//! What has happened is told to whom it concerns, in order, and survives the engine.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used)]

mod common;

use ace_api::InstanceState;
use ace_api::event::Event;
use ace_api::http::CreatedToken;
use common::client::{Answer, begin, deploy, get, read_until, send, send_tcp};
use common::{Life, Machine, block_on, eventually};
use serde_json::Value;

fn events(answer: &Answer) -> Vec<Event> {
    assert_eq!(answer.status, 200, "{:?}", answer.body);
    serde_json::Deserializer::from_slice(&answer.body).into_iter().map(Result::unwrap).collect()
}

fn all(life: &Life, query: &str) -> Vec<Event> {
    events(&get(&life.socket, &format!("/v1/events{query}")))
}

/// The names of `events`: `switched`.
fn names(events: &[Event]) -> Vec<String> {
    let name = |event: &Event| {
        let value: Value = serde_json::to_value(event).unwrap();
        value["event"].as_str().unwrap().to_owned()
    };
    events.iter().map(name).collect()
}

#[test]
fn a_deploy_a_change_and_an_end_are_told_in_order() {
    let machine = Machine::new();
    let life = machine.live();
    deploy(&life.socket, "shop", "run");
    let add = r#"{"add": ["shop.example"]}"#;
    assert_eq!(send(&life.socket, "PATCH", "/v1/apps/shop/domains", add).status, 200);
    assert_eq!(send(&life.socket, "POST", "/v1/apps/shop/stop", "").status, 200);
    assert_eq!(send(&life.socket, "DELETE", "/v1/apps/shop", "").status, 200);
    let told = all(&life, "?app=shop");
    assert_eq!(
        names(&told),
        [
            "app_created",
            "began",
            "switched",
            "domains_changed",
            "switched",
            "app_destroying",
            "app_destroyed"
        ]
    );
    let ids: Vec<u64> = told.iter().map(|event| event.id).collect();
    assert!(ids.is_sorted() && ids[0] > 0, "{ids:?}");
    assert_eq!(told[1].by.as_ref().unwrap().to_string(), "root");
    assert_eq!(told[3].by.as_ref().unwrap().to_string(), "root");
}

#[test]
fn events_are_read_page_by_page_and_outlive_their_engine() {
    let machine = Machine::new();
    let life = machine.live();
    deploy(&life.socket, "shop", "run");
    deploy(&life.socket, "blog", "run");
    life.kill();
    let life = machine.live();
    let whole = all(&life, "");
    assert_eq!(whole.len(), 6);
    let mut pages = Vec::new();
    loop {
        let after = pages.last().map_or(0, |event: &Event| event.id);
        let page = all(&life, &format!("?limit=4&after={after}"));
        let is_last = page.len() < 4;
        pages.extend(page);
        if is_last {
            break;
        }
    }
    assert_eq!(pages, whole);
    assert_eq!(all(&life, "?limit=1"), whole[5..]);
    assert_eq!(all(&life, &format!("?since={}", whole[0].at)), whole);
    assert_eq!(all(&life, "?since=2100-01-01T00:00:00Z"), []);
    let unknown = get(&life.socket, "/v1/events?after=7000");
    assert_eq!(unknown.refusal(), (410, "events_gone".to_owned()));
    let empty = get(&life.socket, "/v1/events?limit=0");
    assert_eq!(empty.refusal(), (400, "bad_request".to_owned()));
}

#[test]
fn a_follower_hears_what_comes_and_can_take_up_where_it_left() {
    let machine = Machine::new();
    let life = machine.live();
    deploy(&life.socket, "shop", "run");
    let seen = all(&life, "").pop().unwrap().id;
    block_on(async {
        let path = format!("/v1/events?follow=true&after={seen}");
        let mut follow = begin(&life.socket, "GET", &path, "").await;
        let mut restart = begin(&life.socket, "POST", "/v1/apps/shop/restart", "").await;
        read_until(&mut restart, r#""event":"done""#).await;
        let told = read_until(&mut follow, "switched").await;
        assert!(told.contains("began") && !told.contains("app_created"), "{told}");
        assert_eq!(follow.headers()["content-type"], "text/event-stream");
        assert!(told.starts_with(&format!("id: {}\ndata: {{", seen + 1)), "{told}");
    });
    let later = all(&life, &format!("?after={seen}"));
    assert_eq!(names(&later), ["began", "switched"]);
}

#[test]
fn a_tenant_is_told_of_its_own_apps_alone() {
    let machine = Machine::new();
    let life = machine.live();
    deploy(&life.socket, "shop", "run");
    let asked = r#"{"role": "read", "tenant": "other"}"#;
    let made = send(&life.socket, "POST", "/v1/tokens", asked);
    let made: CreatedToken = serde_json::from_slice(&made.body).unwrap();
    send(&life.socket, "PATCH", "/v1/apps/theirs/config?tenant=other", r#"{"set": {"A": "1"}}"#);
    let ask = |path: &str| events(&send_tcp(life.tcp, Some(&made.secret), "GET", path, "").0);
    let theirs = ask("/v1/events");
    assert_eq!(names(&theirs), ["app_created"]);
    assert_eq!(theirs[0].app.as_ref().unwrap().as_str(), "theirs");
    assert_eq!(ask("/v1/events?app=shop"), []);
    assert!(names(&all(&life, "")).contains(&"token_created".to_owned()));
}

#[test]
fn an_instance_that_ends_is_told_with_its_reason() {
    let machine = Machine::new();
    let life = machine.live();
    deploy(&life.socket, "shop", "run");
    machine.node.all_become(InstanceState::Crashed { retry_at: jiff::Timestamp::now() });
    eventually("it is told", || names(&all(&life, "")).contains(&"instance_ended".to_owned()));
}
