//! One thing that can be asked of the API: where, by whom, what answers it, and what is told of it.

use std::sync::Arc;

use ace_api::ErrorCode;
use axum::Router;
use axum::extract::{Query, Request};
use axum::handler::Handler;
use axum::http::{Method, Uri};
use axum::middleware::{Next, from_fn};
use axum::routing::{MethodFilter, MethodRouter, on};
use schemars::{JsonSchema, Schema, SchemaGenerator};

use crate::caller::{Access, Caller};
use crate::engine::Engine;
use crate::refusal::Refusal;

/// As much of an unknown parameter as an error has room for, in characters.
const NAME_SHOWN: usize = 64;

/// Makes a type's schema.
pub type SchemaOf = fn(&mut SchemaGenerator) -> Schema;

/// A method of a path.
pub struct Route {
    pub method: Method,
    /// With `{app}` and the like for its parameters.
    pub path: &'static str,
    pub access: Access,
    /// One name for it, and one line about it.
    pub name: &'static str,
    pub summary: &'static str,
    /// An object with a property for each parameter of the query.
    pub query: Option<SchemaOf>,
    pub takes: Option<Takes>,
    pub gives: Gives,
    /// What it gives goes on, as server-sent events, where the query asks to follow it.
    pub is_followed: bool,
    /// Statuses of refusals besides those that every route may answer with.
    pub refusals: &'static [u16],
    handler: MethodRouter<Arc<Engine>>,
}

/// What a request has in its body.
pub enum Takes {
    /// A document; it may be left out where every field of it may.
    Json { schema: SchemaOf, is_needed: bool },
    /// A `.tar.gz`.
    Archive,
}

/// What is answered to a request that is not refused.
pub enum Gives {
    Json {
        status: u16,
        schema: SchemaOf,
    },
    /// A document a line.
    Lines(SchemaOf),
    /// What is no JSON, of this media type.
    Bytes(&'static str),
    /// The connection goes on in frames.
    Frames,
}

impl Route {
    /// `method` is one of the usual ones.
    pub fn new<H, T>(
        method: Method,
        path: &'static str,
        access: Access,
        (name, summary): (&'static str, &'static str),
        handler: H,
    ) -> Self
    where
        H: Handler<T, Arc<Engine>>,
        T: 'static,
    {
        let filter = MethodFilter::try_from(method.clone()).unwrap_or(MethodFilter::GET);
        let handler = on(filter, handler);
        let gives = Gives::Frames;
        let (query, takes, refusals, is_followed) = (None, None, [].as_slice(), false);
        Self {
            method,
            path,
            access,
            name,
            summary,
            query,
            takes,
            gives,
            is_followed,
            refusals,
            handler,
        }
    }

    pub fn query<T: JsonSchema>(self) -> Self {
        Self { query: Some(T::json_schema), ..self }
    }

    pub fn takes<T: JsonSchema>(self, is_needed: bool) -> Self {
        let schema = SchemaGenerator::subschema_for::<T>;
        Self { takes: Some(Takes::Json { schema, is_needed }), ..self }
    }

    pub fn takes_archive(self) -> Self {
        Self { takes: Some(Takes::Archive), ..self }
    }

    pub fn gives<T: JsonSchema>(self, status: u16) -> Self {
        Self { gives: Gives::Json { status, schema: SchemaGenerator::subschema_for::<T> }, ..self }
    }

    pub fn gives_lines<T: JsonSchema>(self) -> Self {
        Self { gives: Gives::Lines(SchemaGenerator::subschema_for::<T>), ..self }
    }

    pub fn can_be_followed(self) -> Self {
        Self { is_followed: true, ..self }
    }

    pub fn gives_bytes(self, media_type: &'static str) -> Self {
        Self { gives: Gives::Bytes(media_type), ..self }
    }

    pub fn refuses(self, refusals: &'static [u16]) -> Self {
        Self { refusals, ..self }
    }

    /// Adds it to `router`.
    pub fn add_to(self, router: Router<Arc<Engine>>) -> Router<Arc<Engine>> {
        let (access, names) = (self.access, self.parameters().into());
        let check = move |request: Request, next: Next| {
            let names: Arc<[String]> = Arc::clone(&names);
            async move {
                check_access(access, &request)?;
                check_parameters(&names, request.uri())?;
                Ok::<_, Refusal>(next.run(request).await)
            }
        };
        router.route(self.path, self.handler.route_layer(from_fn(check)))
    }

    /// The names of the query's parameters.
    fn parameters(&self) -> Vec<String> {
        let schema = self.query.map(|query| query(&mut SchemaGenerator::default()));
        let properties = schema.as_ref().and_then(|it| it.get("properties")?.as_object());
        properties.into_iter().flat_map(|all| all.keys().cloned()).collect()
    }
}

fn check_access(access: Access, request: &Request) -> Result<(), Refusal> {
    match request.extensions().get::<Caller>() {
        Some(caller) if !caller.may(access) => Err(Refusal::forbidden()),
        None if access != Access::Open => Err(Refusal::no_token()),
        _ => Ok(()),
    }
}

/// Refuses a query that has more in it than the parameters `known`: a misspelt one would be passed over.
fn check_parameters(known: &[String], uri: &Uri) -> Result<(), Refusal> {
    let Query(given) = Query::<Vec<(String, String)>>::try_from_uri(uri)?;
    let Some((unknown, _)) = given.iter().find(|(name, _)| !known.contains(name)) else {
        return Ok(());
    };
    let shown: String = unknown.chars().take(NAME_SHOWN).collect();
    let way_out = match known {
        [] => "this path has none".to_owned(),
        known => format!("there are {}", known.join(", ")),
    };
    let message = format!("there is no parameter {shown:?} here; {way_out}");
    Err(Refusal::new(ErrorCode::UnknownParameter, message))
}
