//! What an app may be after what was asked of it: a model of the life of an app, without anything that
//! could go wrong in the middle.

use std::collections::BTreeSet;

/// What can be asked of an app.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ask {
    /// Whether it's going to run, and whether it's files alone.
    Deploy {
        tag: u64,
        behaviour: &'static str,
    },
    Configure {
        value: u64,
    },
    Rollback,
    Restart,
    Stop,
    Start,
    Scale {
        instances: u16,
    },
    Destroy,
}

/// What a release is to those who use it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Content {
    /// The deploy that its code is of.
    pub tag: u64,
    pub config: Option<u64>,
}

/// An app that there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Model {
    pub serving: Option<Content>,
    pub before: Option<Content>,
    /// What the next release takes with it.
    pub config: Option<u64>,
    pub scale: u16,
    pub stopped: bool,
    /// What it turns back to if `serving` dies soon. Not compared.
    pub trial: Option<(Content, Option<Content>)>,
}

/// Everything that an app may be; `None` is that there is none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Possible(pub BTreeSet<Option<Model>>);

impl Possible {
    pub fn nothing() -> Self {
        Self(BTreeSet::from([None]))
    }

    /// `ask` was done.
    pub fn done(&mut self, ask: Ask) {
        self.0 = self.0.iter().map(|model| after(*model, ask)).collect();
    }

    /// `ask` was done or not.
    pub fn may_be_done(&mut self, ask: Ask) {
        let done: Vec<_> = self.0.iter().map(|model| after(*model, ask)).collect();
        self.0.extend(done);
    }

    /// `ask` was refused, or could not be had. All that may be left of it is the app, by its name.
    pub fn failed(&mut self, ask: Ask) {
        if matches!(ask, Ask::Deploy { .. }) {
            let named = self.0.contains(&None).then(|| Some(Model::new()));
            self.0.extend(named);
        }
    }

    /// What serves may have died early.
    pub fn may_turn_back(&mut self) {
        let back: Vec<_> = self.0.iter().filter_map(|model| turned_back((*model)?)).collect();
        self.0.extend(back.into_iter().map(Some));
    }

    /// What was `found` is what it is from here on, and no longer on trial. Returns whether it may be.
    pub fn settle(&mut self, found: Option<Model>) -> bool {
        let without = |model: Model| Model { trial: None, ..model };
        let possible = self.0.iter().any(|model| model.map(without) == found);
        self.0 = BTreeSet::from([found]);
        possible
    }
}

impl Model {
    fn new() -> Self {
        let (serving, before, config, trial) = (None, None, None, None);
        Self { serving, before, config, scale: 1, stopped: false, trial }
    }

    fn serve(self, content: Content) -> Self {
        let before = if self.serving == Some(content) { self.before } else { self.serving };
        Self { serving: Some(content), before, config: content.config, ..self }
    }

    fn on_trial_after(self, old: Self) -> Self {
        Self { trial: old.serving.map(|serving| (serving, old.before)), ..self }
    }
}

fn after(model: Option<Model>, ask: Ask) -> Option<Model> {
    let old = model.unwrap_or_else(Model::new);
    let new = match (ask, old.serving) {
        (Ask::Destroy, _) => return None,
        (Ask::Deploy { tag, .. }, _) => {
            let new = old.serve(Content { tag, config: old.config }).on_trial_after(old);
            Model { stopped: false, ..new }
        }
        (Ask::Configure { value }, Some(serving)) => {
            old.serve(Content { config: Some(value), ..serving }).on_trial_after(old)
        }
        (Ask::Configure { value }, None) => Model { config: Some(value), ..old },
        (Ask::Scale { instances }, _) => {
            return model.map(|_| Model { scale: instances, ..old });
        }
        // All else is refused of an app without a release.
        (_, None) => return model,
        (Ask::Rollback, Some(_)) => match old.before {
            Some(before) => Model { stopped: false, trial: None, ..old.serve(before) },
            None => old,
        },
        (Ask::Restart, Some(_)) => old,
        (Ask::Stop, Some(_)) => Model { stopped: true, ..old },
        (Ask::Start, Some(_)) => Model { stopped: false, ..old },
    };
    Some(new)
}

fn turned_back(model: Model) -> Option<Model> {
    let (serving, before) = model.trial.filter(|_| !model.stopped)?;
    let config = serving.config;
    Some(Model { serving: Some(serving), before, config, trial: None, ..model })
}
