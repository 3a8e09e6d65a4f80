// Preloaded into a node under test (`node --import`): it divides a mesh as if it had many more members.
import { THRESHOLDS } from '../../protocols/neighbourhood.js'

Object.assign(THRESHOLDS, { split: 4, join: 2, least: 1 })
