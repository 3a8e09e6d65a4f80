// Preloaded into a node under test (`node --import`): eight APs are divided as if they were hundreds, and what takes half a
// minute takes less.
import { THRESHOLDS } from '../../protocols/neighbourhood.js'
import { TIMING } from '../../protocols/roster.js'

Object.assign(THRESHOLDS, { split: 4, join: 2, least: 1 })
Object.assign(TIMING, { unwitnessed: 8000 })
