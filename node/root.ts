// Where the package lies, and what of it is a program. The folder with package.json is two levels above dist/node, and as many
// above dist/bin, where the build puts each program into one file (.ci/bundle.mjs).
import { fileURLToPath } from 'node:url'

export const packageRoot = new URL('../../', import.meta.url)

/** The file of a program, for node to run. */
export const programFile = (name: 'dropmesh' | 'watchdog' | 'salvager'): string =>
  fileURLToPath(new URL(`dist/bin/${name}.js`, packageRoot))
