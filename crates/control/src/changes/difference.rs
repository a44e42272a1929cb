//! What tells a deployed release from the one before it, besides its code.

use ace_api::Built;

/// What `after` has otherwise than `before`, in words.
pub fn between(before: &Built, after: &Built) -> Vec<String> {
    let runtimes = before.serving.runtime().zip(after.serving.runtime());
    let python = runtimes
        .filter(|(old, new)| old.python.version != new.python.version)
        .map(|(_, new)| format!("Python {}", new.python.version));
    let app_yaml = (before.app_yaml != after.app_yaml).then(|| "app.yaml".to_owned());
    let packages = runtimes
        .filter(|(old, new)| old.environment != new.environment)
        .map(|_| "packages".to_owned());
    [app_yaml, python, packages].into_iter().flatten().collect()
}
