// Loaded into an AP's process before its own code: instances move for the sake of balance after seconds, not minutes.
import { BALANCE } from '../../protocols/pace.js'
import { altered } from './altered.js'

Object.assign(BALANCE, { steady: 3000, sure: 500, pause: 1000, rest: 1000 })

export const HASTE = altered(import.meta.url)
