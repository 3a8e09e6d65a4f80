// Loaded into an AP's process before its own code: eight APs are divided as if they were hundreds, and what takes half a
// minute takes less.
import { THRESHOLDS } from '../../protocols/neighbourhood.js'
import { TIMING } from '../../protocols/roster.js'
import { altered } from './altered.js'

Object.assign(THRESHOLDS, { split: 4, join: 2, least: 1 })
Object.assign(TIMING, { unwitnessed: 8000 })

export const SMALL_MESH = altered(import.meta.url)
