//! A folder that a container may change for itself. Needs root, and Linux 5.19.

#![allow(clippy::unwrap_used)] // All of it is for tests.

mod kit;

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use ace_sandbox::launch::LaunchError;
use ace_sandbox::spec::{ContainerSpec, Layer};
use ace_types::Bytes;
use kit::{Kit, python, shell};

const CODE: &str = "/ace/code";

/// `None`, and a word about it, where there can be no layers.
fn kit() -> Option<Kit> {
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    let mut numbers = release.split('.').map_while(|part| part.parse::<u32>().ok());
    if (numbers.next(), numbers.next()) < (Some(5), Some(19)) {
        eprintln!("skipped: Linux {release} has no overlays with mapped owners");
        return None;
    }
    Kit::new()
}

/// A container with a layer of 1 MiB and 40 files over `source`.
fn spec(kit: &Kit, source: &Path, argv: Vec<String>) -> ContainerSpec {
    let mut spec = kit.spec(argv);
    let (source, target) = (source.to_owned(), CODE.into());
    spec.root.layers.push(Layer { source, target, size: Bytes::mib(1), inodes: 40 });
    spec.process.working_directory = CODE.into();
    spec
}

/// A folder like a release's code.
fn code(kit: &Kit) -> PathBuf {
    let code = kit.folder("code", &[("index.py", "pass\n"), ("old.txt", "old\n")]);
    fs::create_dir_all(code.join("pkg/sub")).unwrap();
    fs::write(code.join("pkg/sub/data"), "data\n").unwrap();
    code
}

#[test]
fn a_program_changes_what_is_there_and_the_host_keeps_it() {
    let Some(kit) = kit() else { return };
    let code = code(&kit);
    let script = "id=$(stat -c %u:%g . index.py pkg/sub/data | sort -u); echo $id
        echo more >> index.py && chmod 600 index.py && rm old.txt && mkdir -p logs/deep &&
        echo x > logs/deep/log && mv pkg other && mv other/sub/data data && ln -s data link &&
        cat index.py link && find . -type f | sort";
    let ended = kit.run_spec(&spec(&kit, &code, shell(script)));
    assert_eq!(
        ended.stdout, "1000:1000\npass\nmore\ndata\n./data\n./index.py\n./logs/deep/log\n",
        "{}",
        ended.stderr
    );

    let next = kit.run_spec(&spec(&kit, &code, shell("find . | sort; cat index.py")));
    assert_eq!(next.stdout, ".\n./index.py\n./old.txt\n./pkg\n./pkg/sub\n./pkg/sub/data\npass\n");
    let index = fs::metadata(code.join("index.py")).unwrap();
    assert_eq!((index.uid(), index.gid(), index.permissions().mode() & 0o777), (0, 0, 0o644));
    assert_eq!(fs::read_dir(&code).unwrap().count(), 3);
}

#[test]
fn containers_that_share_a_folder_do_not_see_each_others_changes() {
    let Some(kit) = kit() else { return };
    let code = code(&kit);
    let mut first =
        kit.start(&spec(&kit, &code, shell("echo mine > index.py; echo ready; sleep 60")));
    assert_eq!(first.line(), "ready\n");
    assert_eq!(kit.run_spec(&spec(&kit, &code, shell("cat index.py"))).stdout, "pass\n");
}

#[test]
fn a_layer_is_bounded_in_size_and_in_files() {
    let Some(kit) = kit() else { return };
    let ended = kit.run_spec(&spec(
        &kit,
        &code(&kit),
        python(
            "import errno, os\n\
             def fill(each):\n\
             \x20   count = 0\n\
             \x20   try:\n\
             \x20       while count < 10000: each(count); count += 1\n\
             \x20   except OSError as e: return count, errno.errorcode[e.errno]\n\
             f = open('big', 'wb', buffering=0)\n\
             print(fill(lambda n: f.write(bytes(1 << 18))))\n\
             os.unlink('big'); f.close()\n\
             made, why = fill(lambda n: open(f'{n}', 'w').close())\n\
             print(20 < made < 40, why)",
        ),
    ));
    assert_eq!(ended.stdout, "(4, 'ENOSPC')\nTrue ENOSPC\n", "{}", ended.stderr);
    assert_eq!(ended.record.found.full, [Path::new(CODE)]);
}

#[test]
fn what_is_written_has_no_power() {
    let Some(kit) = kit() else { return };
    let ended = kit.run_spec(&spec(
        &kit,
        &code(&kit),
        python(
            "import errno, os, shutil, stat, subprocess\n\
             def refused(act, *args):\n\
             \x20   try: act(*args); return 'done'\n\
             \x20   except OSError as e: return errno.errorcode[e.errno]\n\
             print(refused(os.mknod, 'disk', stat.S_IFBLK | 0o666, os.makedev(8, 0)))\n\
             print(refused(os.mknod, 'whiteout', stat.S_IFCHR | 0o666, os.makedev(0, 0)))\n\
             print(refused(os.chown, 'index.py', 0, 0))\n\
             for name in 'opaque', 'redirect', 'metacopy':\n\
             \x20   print(refused(os.setxattr, 'pkg', f'trusted.overlay.{name}', b'y'))\n\
             shutil.copy('/usr/bin/id', 'id'); os.chmod('id', 0o6755)\n\
             refused(os.setxattr, 'id', 'user.overlay.redirect', b'/etc/passwd')\n\
             print(subprocess.run(['./id', '-u'], stdout=-1).stdout)\n\
             print(os.listxattr('index.py'), os.path.exists('/proc/1/fd/0'))\n\
             print([l.split()[5] for l in open('/proc/self/mountinfo') if l.split()[4] == '/ace/code'])",
        ),
    ));
    assert_eq!(
        ended.stdout,
        "EPERM\nEPERM\nEPERM\nEPERM\nEPERM\nEPERM\nb'1000\\n'\n[] False\n['rw,nosuid,nodev,relatime']\n",
        "{}",
        ended.stderr
    );
}

#[test]
fn a_file_system_without_a_map_of_owners_is_there_to_be_read() {
    let Some(kit) = kit() else { return };
    let script = "ls -d cpu; touch new 2>&1 | grep -o 'Read-only file system'";
    let ended = kit.run_spec(&spec(&kit, Path::new("/sys/devices/system"), shell(script)));
    assert_eq!(ended.stdout, "cpu\nRead-only file system\n", "{}", ended.stderr);
    assert!(ended.record.found.full.is_empty());
}

#[test]
fn a_link_is_no_folder_to_lay_over() {
    let Some(kit) = kit() else { return };
    let link = kit.path("link");
    symlink("/etc", &link).unwrap();
    let Err(error) = kit.try_start(&spec(&kit, &link, shell("ls"))) else {
        panic!("a link was followed")
    };
    assert!(matches!(error, LaunchError::Step { .. }), "{error}");
    assert_eq!(error.to_string(), "could not mount a layer at /ace/code");
}
