// For APs whose constants a test alters.
import { fileURLToPath } from 'node:url'

/**
 * Options of an AP that loads a module before its own code. It runs from its modules one by one: of the program in one file nothing
 * can be reached from outside.
 * @param module its `import.meta.url`
 */
export const altered = (module: string) => ({
  main: fileURLToPath(new URL('../../cli/main.js', import.meta.url)),
  env: { NODE_OPTIONS: `--import ${fileURLToPath(module)}` },
})
