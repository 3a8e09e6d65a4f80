// Loaded into an AP's process before its own code: instances move for the sake of balance after seconds, not minutes.
import { fileURLToPath } from 'node:url'
import { BALANCE } from '../../protocols/pace.js'

Object.assign(BALANCE, { steady: 3000, sure: 500, pause: 1000, rest: 1000 })

/** For the environment of an AP. */
export const HASTE = { NODE_OPTIONS: `--import ${fileURLToPath(import.meta.url)}` }
