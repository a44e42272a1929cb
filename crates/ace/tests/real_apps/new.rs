//! On Python 3.10 to 3.13.

use anyhow::{Result, ensure};

use crate::dav::{check_share, fill_calendar, fill_share, query_calendar};
use crate::kit::{self, RealApp, expect_status, put_to_use, put_to_use_for_good, shows};

#[test]
fn a_webdav_share_under_granian_on_python_3_13() -> Result<()> {
    put_to_use("wsgidav4", fill_share, check_share)
}

#[test]
fn a_database_browser_on_python_3_12() -> Result<()> {
    let fill = |app: &RealApp| {
        let fields = [("sql", "insert into cakes values ('Crème brûlée', 4.5)")];
        shows(&app.submit("/cakes/query/", "", &fields)?, &["cakes"])
    };
    put_to_use("sqlite-web", fill, |app| {
        shows(&app.get("/cakes/content/")?, &["Crème brûlée", "4.5"])?;
        let exported = [("sql", "select * from cakes"), ("export_json", "1")];
        shows(&app.submit("/query/", "", &exported)?, &["\"name\": \"Cr", "\"price\": 4.5"])?;
        shows(&app.get("/static/css/sqlbrowse.css")?, &["body"])
    })
}

/// Without `server:`, as an ASGI application that is made by a package.
#[test]
fn a_data_explorer_on_python_3_13() -> Result<()> {
    put_to_use(
        "datasette",
        |_| Ok(()),
        |app| {
            let rows = app.get("/shop/cakes.json?_shape=array")?;
            shows(&rows, &["\"price\": 4.5}"])?;
            // Percent signs are tildes in its addresses.
            shows(&app.get("/shop/cakes/Cr~C3~A8me~20br~C3~BBl~C3~A9e")?, &["Crème brûlée"])?;
            shows(&app.get("/shop?sql=select+1%2B1+as+two")?, &["<td class=\"col-two\">2</td>"])
        },
    )
}

#[test]
#[ignore = "fetches a whole application from the package index"]
fn a_calendar_under_gunicorn_on_python_3_11() -> Result<()> {
    put_to_use(
        "radicale3",
        |app| fill_calendar(app, "/work/"),
        |app| {
            let events = query_calendar(app, "/work/")?;
            shows(&events, &["<href>/work/1.ics</href>", "SUMMARY:Meet"])
        },
    )
}

#[test]
#[ignore = "fetches a whole application from the package index"]
fn zope_takes_a_file_on_python_3_12() -> Result<()> {
    const ADMIN: (&str, &str) = ("Authorization", "Basic YWRtaW46c2VjcmV0");
    let fill = |app: &RealApp| {
        let headers = [ADMIN, ("Content-Type", "text/plain")];
        expect_status(&app.send("PUT", "/note.txt", &headers, "hello, zope")?, 201)?;
        let more = "z".repeat(3 << 20);
        expect_status(&app.send("PUT", "/long.txt", &headers, more)?, 201)
    };
    put_to_use("zope", fill, |app| {
        ensure!(app.get("/note.txt")?.text() == "hello, zope", "not what was put");
        ensure!(app.get("/long.txt")?.text().len() == 3 << 20, "not all that was put");
        expect_status(&app.get("/nowhere")?, 404)?;
        shows(&app.send("GET", "/manage_main", &[ADMIN], "")?, &["note.txt", "long.txt"])
    })
}

/// By the command of its `Procfile`.
#[test]
#[ignore = "fetches a whole application from the package index"]
fn a_dashboard_on_its_own_port_on_python_3_11() -> Result<()> {
    put_to_use(
        "panel",
        |_| Ok(()),
        |app| {
            shows(&app.get("/cakes")?, &["<title>Cakes for all</title>", "bokeh"])?;
            shows(&app.get("/static/js/bokeh.min.js")?, &["function"])
        },
    )
}

/// It makes its instance, with database and index, in a folder beside its code.
#[test]
#[ignore = "fetches a whole application from the package index"]
fn a_wiki_on_python_3_12() -> Result<()> {
    put_to_use(
        "moin2",
        |_| Ok(()),
        |app| {
            shows(&app.get("/Home")?, &["<title>Home - My MoinMoin</title>"])?;
            shows(&app.get("/+history/Home")?, &["Home"])?;
            expect_status(&app.get("/Nowhere")?, 404)
        },
    )
}

/// It keeps its database in a folder beside its code.
#[test]
#[ignore = "fetches a whole application from the package index"]
fn comments_on_python_3_10() -> Result<()> {
    let fill = |app: &RealApp| {
        let comment = "{\"text\": \"Nice *cakes*\", \"author\": \"me\", \"title\": \"Cakes\"}";
        let kind = ("Content-Type", "application/json");
        expect_status(&app.send("POST", "/new?uri=%2Fcakes", &[kind], comment)?, 201)
    };
    put_to_use_for_good("isso", fill, |app| {
        let shown = ["Nice <em>cakes</em>", "\"total_replies\": 1"];
        shows(&app.get("/?uri=%2Fcakes")?, &shown)?;
        shows(&app.get("/js/embed.min.js")?, &["function"])
    })
}

/// It keeps its calendars, each a repository, in its home.
#[test]
#[ignore = "fetches a whole application from the package index"]
fn a_calendar_in_its_home_on_python_3_13() -> Result<()> {
    const WORK: &str = "/user/calendars/work/";
    put_to_use_for_good(
        "xandikos",
        |app| fill_calendar(app, WORK),
        |app| {
            let events = query_calendar(app, WORK)?;
            shows(&events, &["/user/calendars/work/1.ics<", "SUMMARY:Meet"])
        },
    )
}

/// It runs git for each change of a page.
#[test]
#[ignore = "fetches a whole application from the package index"]
fn a_wiki_of_a_repository_on_python_3_11() -> Result<()> {
    let fill = |app: &RealApp| {
        let form = app.get("/Caf%C3%A9/edit")?;
        let token = kit::hidden(&form, "csrf_token")?;
        let fields = [
            ("csrf_token", token.as_str()),
            ("content", "Crème brûlée, *every* day"),
            ("commit", "More cakes"),
            ("cursor_line", "0"),
            ("cursor_ch", "0"),
        ];
        expect_status(&app.submit("/Caf%C3%A9/save", &kit::cookies(&form), &fields)?, 302)
    };
    put_to_use_for_good("otterwiki", fill, |app| {
        shows(&app.get("/Caf%C3%A9")?, &["Crème brûlée, <em>every</em> day"])?;
        shows(&app.get("/Caf%C3%A9/history")?, &["More cakes"])
    })
}

#[test]
#[ignore = "fetches a whole application from the package index"]
fn a_tracker_under_gunicorn_on_python_3_12() -> Result<()> {
    let fill = |app: &RealApp| {
        let site = format!("http://{}", app.host());
        let headers = [
            ("Authorization", "Basic YWRtaW46c2VjcmV0"),
            ("Content-Type", "application/x-www-form-urlencoded"),
            ("X-Requested-With", "rest"),
            ("Origin", &site),
            ("Referer", &site),
        ];
        expect_status(&app.send("POST", "/rest/data/issue", &headers, "title=Crumbs")?, 201)
    };
    put_to_use("roundup2", fill, |app| {
        shows(&app.get("/issue1")?, &["Crumbs"])?;
        expect_status(&app.get("/issue2")?, 404)
    })
}

#[test]
#[ignore = "fetches a whole application from the package index"]
fn tables_are_edited_under_uvicorn_on_python_3_13() -> Result<()> {
    let fill = |app: &RealApp| {
        expect_status(&app.submit("/admin/cake/create", "", &[("name", "Crème brûlée")])?, 302)
    };
    put_to_use("sqladmin", fill, |app| {
        shows(&app.get("/admin/cake/list")?, &["Crème brûlée"])?;
        shows(&app.get("/admin/statics/css/tabler.min.css")?, &["tabler"])?;
        shows(&app.get("/openapi.json")?, &["\"Cakes\""])
    })
}

#[test]
#[ignore = "fetches a whole application from the package index"]
fn a_server_of_maps_on_python_3_12() -> Result<()> {
    const MAP: &str = "/service?service=WMS&version=1.1.1&request=GetMap&layers=grid&styles=\
                       &srs=EPSG:4326&bbox=-180,-90,180,90&width=256&height=128&format=image/png";
    put_to_use(
        "mapproxy",
        |_| Ok(()),
        |app| {
            shows(&app.get("/service?service=WMS&request=GetCapabilities")?, &["Our maps"])?;
            let map = app.get(MAP)?;
            ensure!(map.header("content-type") == Some("image/png"), "{map:?}");
            ensure!(map.body.starts_with(b"\x89PNG"), "no picture");
            Ok(())
        },
    )
}
