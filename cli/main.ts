#!/usr/bin/env node
// The command line: reads arguments, runs one command, turns what went wrong into an exit status.
import { Command, CommanderError } from 'commander'
import { VERSION } from '../node/version.js'
import { MeshError, messageOf } from '../protocols/error.js'
import { addAuthority } from './commands/authority.js'
import { addControl } from './commands/control.js'
import { addDemo } from './commands/demo.js'
import { addDoctor } from './commands/doctor.js'
import { addEvents } from './commands/events.js'
import { addHistory } from './commands/history.js'
import { addInit } from './commands/init.js'
import { addInvite } from './commands/invite.js'
import { addKeys } from './commands/keys.js'
import { addMembers } from './commands/members.js'
import { addPublish } from './commands/publish.js'
import { addSecret } from './commands/secret.js'
import { addShow } from './commands/show.js'
import { addToken } from './commands/token.js'
import { addUp } from './commands/up.js'
import { addVerify } from './commands/verify.js'
import { say } from './output.js'

const program = new Command('dropmesh')
  .description('A mesh of access points that run containers ("chutes"), with no central backend.')
  .version(VERSION)
  .exitOverride()
  .configureHelp({ sortSubcommands: false })
  .showSuggestionAfterError()
  .addHelpText('after', '\nBegin with "dropmesh demo" to see it work, or "dropmesh up" to run an AP here.')

for (const add of [
  addUp,
  addShow,
  addPublish,
  addHistory,
  addVerify,
  addControl,
  addSecret,
  addInvite,
  addMembers,
  addToken,
  addAuthority,
  addKeys,
  addInit,
  addEvents,
  addDoctor,
  addDemo,
])
  add(program)

try {
  await program.parseAsync()
} catch (error) {
  process.exitCode = statusOf(error)
}

/** 0 done, 1 refused or failed, 2 wrong usage. */
function statusOf(error: unknown): number {
  if (error instanceof CommanderError) return error.exitCode === 0 ? 0 : 2
  if (error instanceof MeshError) say(`dropmesh: ${error.message}`)
  else if ((error as NodeJS.ErrnoException).code === 'EPIPE') return 0
  else say(`dropmesh: ${messageOf(error)}`)
  return 1
}
