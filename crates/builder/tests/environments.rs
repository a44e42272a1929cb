//! Environments that are made anew, and what installers keep from one to the next. Needs root and
//! the internet.

#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used)] // All of it is for tests.

mod kit;

use std::fs;

use ace_api::{Builder, Built, PythonState, Serving};
use kit::{INDEX, Kit, SETUP, has_python, packages};

#[tokio::test]
async fn an_environment_is_made_anew_for_an_upgraded_python() {
    let Some(kit) = Kit::new() else { return };
    for (python, requirements) in [
        ("3.11", "itsdangerous==2.2.0\n-e ./own\n"),
        ("2.7", "--no-binary itsdangerous\nitsdangerous==1.1.0\n./own\n"),
    ] {
        if !has_python(&kit, python).await {
            continue;
        }
        let app_yaml = format!("python: \"{python}\"\n");
        let source = [
            INDEX,
            ("app.yaml", app_yaml.as_str()),
            ("requirements.txt", requirements),
            ("own/setup.py", SETUP),
            ("own/own.py", ""),
        ];
        let built = kit.build(&source).await.release();
        assert_eq!(kit.builder.python_of(&built).await, PythonState::Same);
        let Serving::Program(now) = &built.serving else { panic!("it is files alone") };
        // As if the environment had been made, and named, for an older build of the Python.
        let kept = now.environment.parent().unwrap();
        let older = kept.with_file_name("older");
        fs::rename(kept, &older).unwrap();
        let mut old = now.clone();
        old.python.build ^= 1;
        old.environment = older.join("virtualenv");
        let old = Built { serving: Serving::Program(old), ..built.clone() };
        let replaced = PythonState::Replaced(now.python.clone());
        assert_eq!(kit.builder.python_of(&old).await, replaced);
        let anew = kit.rebuild(&old).await.release();
        let Serving::Program(made) = &anew.serving else { panic!("it is files alone") };
        assert_eq!((&made.python, &made.environment), (&now.python, &now.environment));
        assert_eq!((&made.program, &anew.code), (&now.program, &built.code));
        assert_eq!(packages(&made.environment), packages(&older.join("virtualenv")));

        kit.builder.remove(vec![older.join("virtualenv")]).await.unwrap();
        assert!(!older.exists(), "its lock is left");
        let lost = kit.rebuild(&old).await.result.unwrap_err();
        assert!(lost.to_string().contains("read the environment's lock"), "{lost}");
    }
}

#[tokio::test]
async fn what_was_compiled_for_python_2_is_not_compiled_again() {
    let Some(kit) = Kit::new() else { return };
    if !has_python(&kit, "2.7").await {
        return;
    }
    let app_yaml = ("app.yaml", "python: \"2.7\"\n");
    let first = "--no-binary :all:\nwebencodings==0.5.1\n";
    let first = kit.build(&[INDEX, app_yaml, ("requirements.txt", first)]).await;
    assert!(first.logged("Building wheel for webencodings"), "{:?}", first.log);
    first.built();
    let second = "--no-binary :all:\nwebencodings==0.5.1\necdsa==0.11\n";
    let second = kit.build(&[INDEX, app_yaml, ("requirements.txt", second)]).await;
    assert!(second.logged("Building wheel for ecdsa"), "{:?}", second.log);
    assert!(!second.logged("Building wheel for webencodings"), "{:?}", second.log);
    let installed = packages(&second.built().environment);
    assert!(["ecdsa", "webencodings"].iter().all(|name| installed.contains(&(*name).to_owned())));
}
