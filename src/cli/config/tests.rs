use std::io::Write as _;

use super::*;

fn gather(flags: Flags, variables: &[(&str, &str)]) -> Result<Settings> {
    let environment = |name: &str| match variables.iter().find(|(n, _)| *n == name) {
        Some((_, value)) => Some(OsString::from(value)),
        None => (name == "HOME").then(|| "/nowhere/home".into()),
    };
    Settings::gather(flags, &environment)
}

fn file(text: &str) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    file
}

#[test]
fn a_flag_beats_the_environment_which_beats_the_file_which_beats_the_default() {
    let file = file("jobs = 2\nstreams = 3\nretries = 4");
    let path = file.path().to_str().unwrap();
    let transfer = TransferFlags { jobs: Some(8), ..TransferFlags::default() };
    let variables = [("LAYERPULL_CONFIG", path), ("LAYERPULL_JOBS", "9"), ("LAYERPULL_STREAMS", "7")];
    let settings = gather(Flags { transfer, ..Flags::default() }, &variables).unwrap();
    assert_eq!((settings.jobs.value, settings.jobs.origin), (8, Origin::Flag));
    assert_eq!((settings.streams.value, settings.streams.origin.to_string().as_str()), (7, "LAYERPULL_STREAMS"));
    assert_eq!((settings.retries.value, settings.retries.origin), (4, Origin::File(path.into(), 3)));
    assert_eq!(settings.listen.origin, Origin::Default);
}

#[test]
fn the_store_follows_the_base_folders_of_the_user() {
    let store = |variables: &[(&str, &str)]| gather(Flags::default(), variables).unwrap().store.value;
    assert_eq!(store(&[]), Path::new("/nowhere/home/.local/share/layerpull"));
    assert_eq!(store(&[("XDG_DATA_HOME", "/data")]), Path::new("/data/layerpull"));
    assert_eq!(store(&[("XDG_DATA_HOME", "relative")]), Path::new("/nowhere/home/.local/share/layerpull"));
    assert_eq!(store(&[("LAYERPULL_STORE", "/s"), ("XDG_DATA_HOME", "/data")]), Path::new("/s"));
}

#[test]
fn variables_of_other_programs_count_after_ours() {
    let docker = ("DOCKER_DEFAULT_PLATFORM", "linux/arm64");
    let settings = gather(Flags::default(), &[docker]).unwrap();
    assert_eq!(settings.platform.value, ["linux/arm64".parse().unwrap()]);
    let both = [docker, ("LAYERPULL_PLATFORM", "linux/s390x, linux/386")];
    assert_eq!(gather(Flags::default(), &both).unwrap().platform.value.len(), 2);
}

#[test]
fn a_wrong_value_names_its_origin() {
    let error = |variables: &[(&str, &str)]| gather(Flags::default(), variables).unwrap_err().to_string();
    assert_eq!(error(&[("LAYERPULL_JOBS", "many")]), "LAYERPULL_JOBS: `jobs`: expected a number from 1 to 1024");
    let file = file("\nstall-timeout = \"soon\"");
    let path = file.path().to_str().unwrap();
    let expected = format!("{path}:2: `stall-timeout`: expected a duration");
    assert!(error(&[("LAYERPULL_CONFIG", path)]).starts_with(&expected));
    assert_eq!(error(&[("LAYERPULL_CONFIG", "/nowhere/c")]), "/nowhere/c: there is no such configuration file");
}

#[test]
fn a_password_is_not_shown_and_has_no_place_in_the_file() {
    let settings = gather(Flags::default(), &[("LAYERPULL_CREDS", "me:hunter2")]).unwrap();
    assert_eq!(settings.creds.value, Some(Credential::password("me", "hunter2")));
    let shown = format!("{:?}{settings:?}", settings.rows());
    assert!(shown.contains("me:***") && !shown.contains("hunter2"));
    let file = file("creds = \"a:b\"");
    let variables = [("LAYERPULL_CONFIG", file.path().to_str().unwrap())];
    assert!(gather(Flags::default(), &variables).unwrap_err().to_string().contains("unknown key `creds`"));
}

#[test]
fn every_setting_has_a_row() {
    let rows = gather(Flags::default(), &[]).unwrap().rows();
    let names: Vec<&str> = rows.iter().map(|row| row.name).collect();
    assert_eq!(names, KEYS.map(|key| key.name));
}

#[test]
fn only_what_is_near_is_suggested() {
    let known = ["pull", "push", "layers", "gc"];
    assert_eq!(nearest("pul", known), Some("pull"));
    assert_eq!(nearest("lyaers", known), Some("layers"));
    assert_eq!(nearest("mysql", known), None);
    assert_eq!(nearest("nginx", known), None);
}
