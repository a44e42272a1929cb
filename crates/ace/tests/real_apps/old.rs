//! On Python 2.7, 3.6 and 3.8.

use anyhow::{Result, ensure};

use crate::dav::{check_share, fill_calendar, fill_share, query_calendar};
use crate::kit::{self, RealApp, expect_status, put_to_use, put_to_use_for_good, shows};

#[test]
fn a_webdav_share_on_python_2_7() -> Result<()> {
    put_to_use("wsgidav", fill_share, check_share)
}

#[test]
fn a_package_index_on_python_2_7() -> Result<()> {
    put_to_use("pypiserver", upload_package, |app| {
        shows(&app.get("/simple/")?, &["shop"])?;
        shows(&app.get("/simple/shop/")?, &["shop-1.0.tar.gz#md5="])?;
        shows(&app.get("/packages/shop-1.0.tar.gz")?, &["a shop, packed"])
    })
}

#[test]
#[ignore = "fetches a whole application from the package index"]
fn a_wiki_on_python_2_7() -> Result<()> {
    let fill = |app: &RealApp| {
        let form = app.get("/Caf%C3%A9?action=edit")?;
        let ticket = kit::hidden(&form, "ticket")?;
        let fields = [
            ("action", "edit"),
            ("rev", "0"),
            ("ticket", &ticket),
            ("button_save", "Save Changes"),
            ("savetext", "Crème brûlée, '''every''' day"),
        ];
        shows(&app.submit("/Caf%C3%A9", "", &fields)?, &["Thank you for your changes"])
    };
    put_to_use("moin", fill, |app| {
        shows(&app.get("/Caf%C3%A9")?, &["Crème brûlée, <strong>every</strong> day"])?;
        shows(&app.get("/moin_static1911/common/js/common.js")?, &["function"])?;
        expect_status(&app.get("/Nowhere")?, 404)
    })
}

/// It keeps its calendars beside its code.
#[test]
fn a_calendar_on_python_3_6() -> Result<()> {
    put_to_use(
        "radicale2",
        |app| fill_calendar(app, "/work.ics/"),
        |app| {
            shows(
                &query_calendar(app, "/work.ics/")?,
                &["<href>/work.ics/1.ics</href>", "SUMMARY:Meet"],
            )
        },
    )
}

/// It makes the repository that it shows beside its code.
#[test]
#[ignore = "fetches a whole application from the package index"]
fn a_site_of_repositories_on_python_3_8() -> Result<()> {
    put_to_use(
        "klaus",
        |_| Ok(()),
        |app| {
            shows(&app.get("/")?, &["Our code", "/shop/"])?;
            shows(&app.get("/shop/")?, &["Open the shop"])?;
            shows(&app.get("/shop/blob/master/README.md")?, &["A shop"])?;
            expect_status(&app.get("/shop/blob/master/none")?, 404)
        },
    )
}

#[test]
#[ignore = "fetches a whole application from the package index"]
fn a_calendar_on_python_2_7() -> Result<()> {
    put_to_use(
        "radicale",
        |app| fill_calendar(app, "/me/work.ics/"),
        |app| {
            shows(
                &query_calendar(app, "/me/work.ics/")?,
                &["<href>/me/work.ics/1.ics</href>", "SUMMARY:Meet"],
            )
        },
    )
}

#[test]
#[ignore = "fetches a whole application from the package index"]
fn a_project_site_on_python_2_7() -> Result<()> {
    let fill = |app: &RealApp| {
        let form = app.get("/wiki/Plans?action=edit")?;
        let token = kit::hidden(&form, "__FORM_TOKEN")?;
        let fields = [
            ("__FORM_TOKEN", token.as_str()),
            ("action", "edit"),
            ("version", "0"),
            ("text", "= Plans =\nMore ''snow''."),
            ("save", "Submit changes"),
        ];
        let saved = app.submit("/wiki/Plans", &kit::cookies(&form), &fields)?;
        expect_status(&saved, 303)?;
        let page = format!("http://{}/wiki/Plans", app.host());
        ensure!(saved.header("location") == Some(page.as_str()), "{saved:?}");
        Ok(())
    };
    put_to_use("trac", fill, |app| {
        shows(&app.get("/wiki/Plans")?, &["More <em>snow</em>."])?;
        shows(&app.get("/chrome/common/css/trac.css")?, &["body"])?;
        shows(&app.get("/about")?, &["Trac"])
    })
}

/// It makes its tracker in a folder that is kept beside its code.
#[test]
#[ignore = "fetches a whole application from the package index"]
fn a_tracker_on_python_2_7() -> Result<()> {
    let fill = |app: &RealApp| {
        let issue = "<?xml version='1.0'?><methodCall><methodName>create</methodName><params>\
                     <param><value><string>issue</string></value></param>\
                     <param><value><string>title=Crumbs</string></value></param></params></methodCall>";
        let referrer = format!("http://{}/", app.host());
        let headers = [
            ("Authorization", "Basic YWRtaW46c2VjcmV0"),
            ("Content-Type", "text/xml"),
            ("X-Requested-With", "client"),
            ("Referer", &referrer),
        ];
        shows(&app.send("POST", "/xmlrpc", &headers, issue)?, &["<string>1</string>"])
    };
    put_to_use_for_good("roundup", fill, |app| {
        shows(&app.get("/issue1")?, &["Crumbs"])?;
        shows(&app.get("/@@file/style.css")?, &["body"])?;
        expect_status(&app.get("/issue2")?, 404)
    })
}

#[test]
#[ignore = "fetches a whole application from the package index"]
fn tables_are_edited_on_python_3_6() -> Result<()> {
    let fill = |app: &RealApp| {
        expect_status(&app.submit("/admin/cake/new/", "", &[("name", "Crème brûlée")])?, 302)
    };
    put_to_use("flask-admin", fill, |app| {
        shows(&app.get("/admin/cake/")?, &["Crème brûlée"])?;
        shows(&app.get("/admin/fileadmin/")?, &["cakes.db"])
    })
}

/// As `setup.py upload` and twine do.
fn upload_package(app: &RealApp) -> Result<()> {
    let part = |disposition: &str, content: &str| {
        format!("--b\r\nContent-Disposition: form-data; {disposition}\r\n\r\n{content}\r\n")
    };
    let body = [
        part("name=\":action\"", "file_upload"),
        part("name=\"content\"; filename=\"shop-1.0.tar.gz\"", "a shop, packed"),
        "--b--\r\n".to_owned(),
    ];
    let kind = ("Content-Type", "multipart/form-data; boundary=b");
    expect_status(&app.send("POST", "/", &[kind], body.concat())?, 200)
}
