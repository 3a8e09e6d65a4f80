// Puts each program of dropmesh into one file under dist/bin, with what it shares with the others in files beside it. Node takes
// a third of a second of CPU to find and load the modules of a command one by one, a node of the mesh twice as long, and a box
// at home is many times slower.
import fs from 'node:fs'
import path from 'node:path'
import { build } from 'esbuild'

const programs = { dropmesh: 'cli/main.ts', watchdog: 'node/chutes/watchdog.ts', salvager: 'node/store/salvager.ts' }

/** They bring compiled code, or are loaded by it, and look for it where they lie. */
const external = ['level', 'ssh2', 'dockerode']

/** Bundled CommonJS asks for modules of Node by `require`, which a module does not have. */
const banner = `import { createRequire as requireFrom } from 'node:module'; const require = requireFrom(import.meta.url);`

/** @param {string} root folder with package.json */
export async function bundle(root) {
  const outdir = path.join(root, 'dist/bin')
  const { metafile } = await build({
    absWorkingDir: root,
    entryPoints: programs,
    outdir,
    bundle: true,
    splitting: true,
    format: 'esm',
    platform: 'node',
    target: 'node20',
    external,
    banner: { js: banner },
    sourcemap: true,
    metafile: true,
    logLevel: 'warning',
  })
  const outputs = new Set(Object.keys(metafile.outputs).map((file) => path.join(root, file)))
  for (const name of fs.readdirSync(outdir)) {
    const file = path.join(outdir, name)
    if (!outputs.has(file)) fs.rmSync(file)
  }
  fs.chmodSync(path.join(outdir, 'dropmesh.js'), 0o755)
}
