// Prints the folders of the packages that are named and of all that they need, from the folder with their node_modules.

import fs from 'node:fs';
import path from 'node:path';

const seen = new Set();

/** Where a package finds another: in its own node_modules, or in those of a folder above it. */
function find(from, name) {
  for (let folder = from; ; folder = path.dirname(folder)) {
    const found = path.join(folder, 'node_modules', name);
    if (fs.existsSync(found)) return found;
    if (folder === path.dirname(folder)) return undefined;
  }
}

function follow(folder) {
  if (!folder || seen.has(folder)) return;
  seen.add(folder);
  const { dependencies, peerDependencies } = JSON.parse(fs.readFileSync(path.join(folder, 'package.json'), 'utf8'));
  for (const name of Object.keys({ ...dependencies, ...peerDependencies })) follow(find(folder, name));
}

for (const name of process.argv.slice(2)) {
  const folder = find(process.cwd(), name);
  if (!folder) throw new Error(`${name} is not installed here; npm ci installs it`);
  follow(folder);
}
for (const folder of seen) console.log(path.relative(process.cwd(), folder));
