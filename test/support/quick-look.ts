// Loaded into an AP's process before its own code: it looks for a mesh on the LAN, and asks again, in less time.
import { fileURLToPath } from 'node:url'
import { PACE } from '../../node/mesh/lan.js'

Object.assign(PACE, { look: 2000, lookEvery: 300, poll: 500, anew: 1000 })

/** For the environment of an AP. */
export const QUICK_LOOK = { NODE_OPTIONS: `--import ${fileURLToPath(import.meta.url)}` }
