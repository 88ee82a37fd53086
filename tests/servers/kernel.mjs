// What the kernel says about processes and cgroups. The ring asks it here, never pinfold, whether something is left.

import fs from 'node:fs';
import path from 'node:path';

/** Reads a file of /proc or a cgroup; null once the process or the cgroup is gone. */
function read(file) {
  try {
    return fs.readFileSync(file, 'utf8');
  } catch (error) {
    if (['ENOENT', 'ESRCH', 'ENODEV'].includes(error.code)) return null;
    throw error;
  }
}

/** proc_pid_stat(5): the name may hold spaces and parentheses, so fields are counted from the last one. */
function stat(pid) {
  const text = read(`/proc/${pid}/stat`);
  if (text === null) return null;
  const [state, parent, group, session, ...rest] = text.slice(text.lastIndexOf(')') + 2).split(' ');
  return { state, parent: Number(parent), group: Number(group), session: Number(session), started: rest[15] };
}

/** A process that stays the same one even if its number is used again. */
export function identify(pid) {
  const found = stat(pid);
  if (found === null) return null;
  const argv = (read(`/proc/${pid}/cmdline`) ?? '').split('\0').filter(Boolean);
  const { parent, group, session, started } = found;
  return { pid, parent, group, session, started, argv };
}

/** Alive means able to run. A zombie is an exit status its parent has not fetched, and that is the parent's affair. */
export function isAlive({ pid, started }) {
  const found = stat(pid);
  return found !== null && found.started === started && !['Z', 'X'].includes(found.state);
}

/** Kills these very processes, by number and start time, and no others. */
export function killEach(processes) {
  for (const each of processes.filter(isAlive)) {
    try {
      process.kill(each.pid, 'SIGKILL');
    } catch (error) {
      if (error.code !== 'ESRCH') throw error;
    }
  }
}

/** The process and all that descend from it, parents before children. */
export function treeBelow(leader) {
  const children = new Map();
  for (const name of fs.readdirSync('/proc').filter((name) => /^\d+$/.test(name))) {
    const found = stat(name);
    if (found === null || found.state === 'Z') continue;
    children.set(found.parent, [...(children.get(found.parent) ?? []), Number(name)]);
  }
  const pids = [leader];
  for (const pid of pids) pids.push(...(children.get(pid) ?? []));
  return pids.map(identify).filter(Boolean);
}

/** One line of a tree for a person to read, and for a test to compare: `npm exec`, `sh`, `node`. */
export function roleOf({ argv }) {
  // npm sets its title, which leaves one long argument; the others keep theirs.
  if (argv[0]?.startsWith('npm exec ')) return 'npm exec';
  return path.basename(argv[0] ?? '');
}

/** Each mounted hierarchy: where it is, what part of it is shown there, and which controllers it has ('' for v2). */
function hierarchies() {
  const found = [];
  for (const line of read('/proc/self/mountinfo').trimEnd().split('\n')) {
    const [left, right] = line.split(' - ');
    const [, , , root, mountPoint] = left.split(' ');
    const [type, , options] = right.split(' ');
    if (type === 'cgroup2') found.push({ mountPoint, root, controllers: [''] });
    if (type === 'cgroup') found.push({ mountPoint, root, controllers: options.split(',') });
  }
  return found;
}

export function unifiedMount() {
  const mount = hierarchies().find(({ controllers }) => controllers[0] === '');
  if (!mount) throw new Error('no cgroup v2 hierarchy is mounted here; the servers ring needs one');
  return mount.mountPoint;
}

/** Where a process is: the cgroup directory by hierarchy, '' being v2. Null if the process is gone. */
export function cgroupsOf(pid) {
  const text = read(`/proc/${pid}/cgroup`);
  if (text === null) return null;
  const mounts = hierarchies();
  const places = new Map();
  for (const line of text.trimEnd().split('\n')) {
    const [, names, ...rest] = line.split(':');
    const inside = rest.join(':');
    const mount = mounts.find(({ controllers }) => names.split(',').every((name) => controllers.includes(name)));
    if (!mount) continue;
    const shown = mount.root === '/' ? inside : path.posix.relative(mount.root, inside);
    places.set(names, path.resolve(mount.mountPoint, `./${shown}`));
  }
  return places;
}

/** The cgroup directory and all below it, the deepest first. */
export function cgroupsBelow(directory) {
  let entries;
  try {
    entries = fs.readdirSync(directory, { withFileTypes: true });
  } catch (error) {
    if (['ENOENT', 'ENODEV'].includes(error.code)) return [];
    throw error;
  }
  const below = entries.filter((entry) => entry.isDirectory()).map((entry) => path.join(directory, entry.name));
  return [...below.flatMap(cgroupsBelow), directory];
}

/** Every process in the cgroup or below it. */
export function processesIn(directory) {
  return cgroupsBelow(directory)
    .flatMap((each) => (read(path.join(each, 'cgroup.procs')) ?? '').split('\n').filter(Boolean))
    .map((pid) => identify(Number(pid)))
    .filter(Boolean);
}

/** Ends what is in a cgroup that the ring itself made, and removes it. False while the kernel still holds a process in it. */
export function removeCgroup(directory) {
  try {
    fs.writeFileSync(path.join(directory, 'cgroup.kill'), '1');
    for (const each of cgroupsBelow(directory)) fs.rmdirSync(each);
    return true;
  } catch (error) {
    if (error.code === 'ENOENT') return true;
    if (error.code === 'EBUSY') return false;
    throw error;
  }
}
