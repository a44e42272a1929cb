//! One thing that can be asked of the API: where, by whom, and what answers it.

use std::sync::Arc;

use axum::Router;
use axum::extract::Request;
use axum::handler::Handler;
use axum::http::Method;
use axum::middleware::{Next, from_fn};
use axum::response::Response;
use axum::routing::{MethodFilter, MethodRouter, on};

use crate::caller::{Access, Caller};
use crate::engine::Engine;
use crate::refusal::Refusal;

/// A method of a path.
pub struct Route {
    /// With `{app}` and the like for its parameters.
    pub path: &'static str,
    pub access: Access,
    handler: MethodRouter<Arc<Engine>>,
}

impl Route {
    /// `method` is one of the usual ones.
    pub fn new<H, T>(method: Method, path: &'static str, access: Access, handler: H) -> Self
    where
        H: Handler<T, Arc<Engine>>,
        T: 'static,
    {
        let filter = MethodFilter::try_from(method).unwrap_or(MethodFilter::GET);
        Self { path, access, handler: on(filter, handler) }
    }

    /// Adds it to `router`.
    pub fn add_to(self, router: Router<Arc<Engine>>) -> Router<Arc<Engine>> {
        let access = self.access;
        let check = move |request: Request, next: Next| check(access, request, next);
        router.route(self.path, self.handler.route_layer(from_fn(check)))
    }
}

async fn check(access: Access, request: Request, next: Next) -> Result<Response, Refusal> {
    match request.extensions().get::<Caller>() {
        Some(caller) if !caller.may(access) => Err(Refusal::forbidden()),
        None if access != Access::Open => Err(Refusal::no_token()),
        _ => Ok(next.run(request).await),
    }
}
