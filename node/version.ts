// The version of this build, read from package.json so that it is written in one place.
import { readFileSync } from 'node:fs'
import { packageRoot } from './root.js'

export const VERSION: string = JSON.parse(readFileSync(new URL('package.json', packageRoot), 'utf8')).version
