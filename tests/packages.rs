//! What packages are made of: recipes that install what `make install` installs, documents whose links lead somewhere,
//! a crate that has what its README leads to. The packages themselves are tried by tests/ci/test-deb, test-rpm and
//! test-arch.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

fn source(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(file)
}

fn read(file: &str) -> String {
    fs::read_to_string(source(file)).unwrap_or_else(|e| panic!("{file}: {e}"))
}

#[track_caller]
fn must(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let stdout = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{command:?}: {stdout}{said}");
    stdout
}

/// An empty folder for a test.
fn folder(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"))
        .join("packages")
        .join(name);
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).unwrap();
    folder
}

/// Each file below, with its text.
fn files(root: &Path) -> BTreeMap<String, Vec<u8>> {
    let listed = must(Command::new("find").arg(root).args(["-type", "f"]));
    listed
        .lines()
        .map(|file| {
            let name = file.strip_prefix(root.to_str().unwrap()).unwrap();
            (name.to_owned(), fs::read(file).unwrap())
        })
        .collect()
}

/// The relative links of a page, without what follows a `#`.
fn links(text: &str) -> BTreeSet<String> {
    let of = |mark: &str, end: char| {
        let links = text.split(mark).skip(1);
        links
            .map(|link| link.split([end, '#']).next().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    let all = [of("](", ')'), of("src=\"", '"'), of("srcset=\"", '"')].concat();
    let relative = |link: &String| !link.is_empty() && !link.contains("://");
    all.into_iter().filter(relative).collect()
}

// The recipes --------------------------------------------------------------------------------------

/// The sources as a recipe finds them, with what `make` has built.
fn sources(into: &Path) {
    let parts = "Makefile README.md SECURITY.md CHANGELOG.md LICENSE-APACHE LICENSE-MIT LICENSE-THIRD-PARTY \
                 Cargo.toml contrib docs man";
    fs::create_dir_all(into.join("target/release")).unwrap();
    must(
        Command::new("cp")
            .arg("-r")
            .args(parts.split_whitespace())
            .arg(into)
            .current_dir(source("")),
    );
    let built = into.join("target/release/syngate");
    must(Command::new("cp").args([Path::new(env!("CARGO_BIN_EXE_syngate")), &built]));
}

/// What a package has, by the places of most distributions.
fn expected() -> BTreeSet<String> {
    let listed = |folder: &str, ending: &str| -> Vec<String> {
        let files = fs::read_dir(source(folder)).unwrap();
        let names = files.map(|file| file.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name.ends_with(ending)).collect()
    };
    let mut all = BTreeSet::from([
        "/usr/sbin/syngate".to_owned(),
        "/usr/share/bash-completion/completions/syngate".to_owned(),
        "/usr/share/fish/vendor_completions.d/syngate.fish".to_owned(),
        "/usr/share/zsh/site-functions/_syngate".to_owned(),
        "/usr/share/licenses/syngate/LICENSE-APACHE".to_owned(),
        "/usr/share/licenses/syngate/LICENSE-MIT".to_owned(),
    ]);
    for section in ["5", "7", "8"] {
        let pages = listed("man", section);
        all.extend(
            pages
                .iter()
                .map(|page| format!("/usr/share/man/man{section}/{page}")),
        );
    }
    let units = listed("contrib/systemd", ".service");
    all.extend(
        units
            .iter()
            .map(|unit| format!("/usr/lib/systemd/system/{unit}")),
    );
    all
}

/// Binary, manual, completions, units, licences; and the documents, with an example of a profile.
fn assert_installs(installed: &BTreeMap<String, Vec<u8>>, expected: &BTreeSet<String>) {
    let doc = "/usr/share/doc/syngate/";
    let others = installed.keys().filter(|file| !file.starts_with(doc));
    assert_eq!(&others.cloned().collect::<BTreeSet<_>>(), expected);
    for document in [
        "README.md",
        "docs/hold.md",
        "contrib/profiles/web.conf",
        "contrib/systemd/README.md",
    ] {
        assert!(
            installed.contains_key(&format!("{doc}{document}")),
            "{document}"
        );
    }
    for recipe in ["debian", "rpm", "arch", "alpine", "packages", "completions"] {
        let inside = format!("{doc}contrib/{recipe}/");
        assert!(
            !installed.keys().any(|file| file.starts_with(&inside)),
            "{inside}"
        );
    }
    for (file, text) in installed.iter().filter(|(file, _)| file.ends_with(".md")) {
        let folder = Path::new(file).parent().unwrap();
        for link in links(&String::from_utf8_lossy(text)) {
            let mut target = PathBuf::new();
            for part in folder.join(&link).components() {
                match part {
                    std::path::Component::ParentDir => assert!(target.pop()),
                    part => target.push(part),
                }
            }
            let there = |name: &String| Path::new(name).starts_with(&target);
            assert!(
                installed.keys().any(there),
                "{file}: {link} is not installed"
            );
        }
    }
}

#[test]
fn the_recipe_for_arch_installs_what_make_install_installs() {
    let folder = folder("arch");
    sources(&folder.join("src/syngate"));
    let package = ". \"$1\"; pkgdir=$2; cd src; set -e; package";
    let mut bash = Command::new("bash");
    bash.args(["-c", package, "bash"]).current_dir(&folder);
    must(
        bash.arg(source("contrib/arch/PKGBUILD"))
            .arg(folder.join("pkg")),
    );
    // /usr/sbin is a link there, which no package may have.
    let expected = expected().into_iter();
    let expected = expected.map(|file| file.replace("/usr/sbin/", "/usr/bin/"));
    assert_installs(&files(&folder.join("pkg")), &expected.collect());
}

/// By busybox, as on Alpine, but for make, and for install, which Debian's busybox has not.
#[test]
fn the_recipe_for_alpine_installs_what_make_install_installs() {
    let folder = folder("alpine");
    let [src, bin] = ["src", "bin"].map(|name| folder.join(name));
    sources(&src);
    fs::create_dir(&bin).unwrap();
    must(Command::new("busybox").args(["--install", "-s"]).arg(&bin));
    for other in ["make", "install"] {
        let at = must(Command::new("sh").args(["-c", &format!("command -v {other}")]));
        std::os::unix::fs::symlink(at.trim(), bin.join(other)).unwrap();
    }
    let package = ". \"$1\"; pkgdir=$2; set -e; package";
    let mut sh = Command::new(bin.join("sh"));
    sh.args(["-c", package, "sh"])
        .current_dir(&src)
        .env("PATH", &bin);
    must(
        sh.arg(source("contrib/alpine/APKBUILD"))
            .arg(folder.join("pkg")),
    );
    let expected = expected().into_iter();
    let expected = expected.filter(|file| !file.contains("/systemd/"));
    assert_installs(&files(&folder.join("pkg")), &expected.collect());
}

#[test]
fn the_recipes_are_of_this_version() {
    for recipe in ["contrib/arch/PKGBUILD", "contrib/alpine/APKBUILD"] {
        let text = read(recipe);
        let value = |key: &str| {
            let line = text
                .lines()
                .find_map(|l| l.strip_prefix(&format!("{key}=")));
            let line = line.unwrap_or_else(|| panic!("{recipe}: no {key}"));
            line.trim_matches(['(', ')', '\'', '"']).to_owned()
        };
        assert_eq!(value("pkgname"), env!("CARGO_PKG_NAME"), "{recipe}");
        assert_eq!(value("pkgver"), env!("CARGO_PKG_VERSION"), "{recipe}");
        assert_eq!(value("pkgdesc"), env!("CARGO_PKG_DESCRIPTION"), "{recipe}");
        assert_eq!(value("license"), env!("CARGO_PKG_LICENSE"), "{recipe}");
        assert_eq!(value("url"), env!("CARGO_PKG_REPOSITORY"), "{recipe}");
    }
    assert_eq!(env!("CARGO_PKG_HOMEPAGE"), env!("CARGO_PKG_REPOSITORY"));
    let manifest = read("Cargo.toml");
    let documentation = format!("documentation = \"{}", env!("CARGO_PKG_REPOSITORY"));
    assert!(manifest.contains(&documentation));
}

/// `make address` writes the address where it stands, and nothing else.
#[test]
fn the_address_is_set_in_one_place() {
    let folder = folder("address");
    sources(&folder);
    let address = |arguments: &[&str]| {
        let mut script = Command::new(folder.join("contrib/packages/address"));
        must(script.args(arguments)).trim().to_owned()
    };
    let now = env!("CARGO_PKG_REPOSITORY");
    let known = if now.contains(".invalid/") { "" } else { now };
    assert_eq!(address(&[]), known);
    let before = files(&folder);
    let new = "https://example.org/some&body/syngate";
    assert_eq!(address(&[new]), new);
    assert_eq!(address(&[]), new);
    let after = files(&folder);
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let mut changed = 0;
    for (file, old) in before {
        if old == after[&file] {
            continue;
        }
        changed += 1;
        assert_eq!(text(&after[&file]), text(&old).replace(now, new), "{file}");
    }
    assert_eq!(changed, 3);
    let wrong = Command::new(folder.join("contrib/packages/address"))
        .arg("http://example.org/")
        .output();
    assert!(!wrong.unwrap().status.success());
    assert_eq!(address(&[]), new);
}

#[test]
fn scripts_and_recipes_are_clean() {
    for script in [
        "contrib/alpine/APKBUILD",
        "contrib/arch/PKGBUILD",
        "contrib/debian/build",
        "contrib/packages/address",
        "contrib/packages/crate",
        "contrib/packages/documents",
        "contrib/packages/version",
        "contrib/rpm/build",
        "tests/ci/packages",
        "tests/ci/test-arch",
        "tests/ci/test-deb",
        "tests/ci/test-rpm",
    ] {
        let shell = if script.ends_with("PKGBUILD") {
            "bash"
        } else {
            "dash"
        };
        for checker in [&["shellcheck", "-x"][..], &[shell, "-n"]] {
            let mut call = Command::new(checker[0]);
            call.args(&checker[1..]).arg(script);
            must(call.current_dir(source("")));
        }
    }
}

// The crate ----------------------------------------------------------------------------------------

/// README's relative links lead from its page to the repository. Who has the crate alone finds them there, but for
/// pictures, which lie in a package of their own.
#[test]
fn the_crate_has_what_its_readme_leads_to() {
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["package", "--list", "--allow-dirty", "--offline"]);
    let listed = must(cargo.current_dir(source("")));
    let packed: BTreeSet<&str> = listed.lines().collect();
    for link in links(&read("README.md")) {
        assert!(source(&link).exists(), "{link}");
        let picture = link.starts_with("tests/bench/results/") && link.ends_with(".svg");
        assert!(packed.contains(link.as_str()) || picture, "{link}");
    }
    let tests = packed.iter().filter(|file| file.starts_with("tests/"));
    let tools = ["tests/ci/install-packages", "tests/ci/needs"];
    assert_eq!(tests.copied().collect::<Vec<_>>(), tools);
}
