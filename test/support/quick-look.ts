// Loaded into an AP's process before its own code: it looks for a mesh on the LAN, and asks again, in less time.
import { PACE } from '../../node/mesh/lan.js'
import { altered } from './altered.js'

Object.assign(PACE, { look: 2000, lookEvery: 300, poll: 500, anew: 1000 })

export const QUICK_LOOK = altered(import.meta.url)
