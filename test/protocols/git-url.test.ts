import fc from 'fast-check'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { MeshError } from '../../protocols/error.js'
import { folderNameOf, isGitUrl, parseGitUrl, shownUrl } from '../../protocols/git-url.js'

const refusal = (url: string): string => {
  try {
    parseGitUrl(url)
  } catch (error) {
    assert.instance(error, MeshError)
    assert.is((error as MeshError).code, 'git-url')
    return (error as MeshError).message
  }
  throw new Error(`${url} was taken`)
}

test('a URL is read as Docker and Compose write it: ref and folder are optional', () => {
  const https = { repository: 'https://example.org/alice/chute.git', scheme: 'https' }
  for (const [rest, ref, folder] of [
    ['', undefined, ''],
    ['#v1', 'v1', ''],
    ['#v1:sub', 'v1', 'sub'],
    ['#:sub/of/it', undefined, 'sub/of/it'],
    ['#feature/new:./sub//x/', 'feature/new', 'sub/x'],
    ['#v1:/sub', 'v1', 'sub'],
    ['#refs/pull/7/head', 'refs/pull/7/head', ''],
    ['#', undefined, ''],
  ] as const) {
    assert.equal(parseGitUrl(https.repository + rest), { ...https, ref, folder }, rest)
  }
  for (const [url, scheme] of [
    ['http://127.0.0.1:8080/x', 'http'],
    ['https://alice:to-ken@example.org/x', 'https'],
    ['git://[::1]:9418/x', 'git'],
    ['ssh://git@example.org:2222/x.git', 'ssh'],
    ['git@example.org:alice/chute.git', 'ssh'],
  ] as const) {
    assert.equal(parseGitUrl(url), { repository: url, scheme, ref: undefined, folder: '' })
    assert.ok(isGitUrl(url))
  }
  for (const path of ['.', './chute', '../x', '/a/b', 'app.tar', 'a:b', 'dir#x']) assert.not.ok(isGitUrl(path), path)
})

test('what git would take for an option, a command or another transport is refused', () => {
  for (const url of [
    ...['-x', '--upload-pack=x', 'ext::sh -c x', 'ext::sh', 'fd::17', 'file:///etc', '/etc', '../x', 'host:path'],
    ...['ftp://example.org/x', 'HTTPS://example.org/x', 'https:///x', 'https://example.org', 'http+ext://x/y'],
    ...['ssh://-oProxyCommand=x/y', 'ssh://git@-oProxyCommand=x/y', 'ssh://-l@example.org/y', 'git@-oX=y:z'],
    ...[
      '-git@example.org:x',
      'git@example.org:-x',
      'git@ext::sh',
      'a@https://x',
      'ssh://git:pass@example.org/x',
      'git://a@b/c',
    ],
    ...['https://example.org/x\n', 'https://example.org/x%0ahost=y', 'https://example.org/%00', 'https://a b/c'],
    ...['https://example.org:0/x', 'https://example.org:99999/x', 'https://example.org/x?y', 'https://a\\b/c'],
    ...['ssh://-host/y', 'ssh://git@-host/y', 'https://-host/y', 'git@-host:y', 'https://.host/y'],
    ...['https://a\u202eb/c', `https://example.org/${'x'.repeat(2048)}`],
  ])
    refusal(url)
  for (const ref of [
    ...['-x', '--all', '+main', '^main', 'a..b', 'a b', 'a~1', 'a^', 'a@{1}', '@', '/a', 'a/', 'a//b', '.a', 'a/.b'],
    ...['a.', 'a.lock', 'a.lock/b', 'a*', 'a?', '[a', 'a\\b', 'a\u0007', 'x'.repeat(256)],
  ])
    assert.match(refusal(`https://example.org/x#${ref}`), 'can be no tag, branch or commit')
  for (const folder of ['..', '../x', 'a/../../b', 'a/..', 'a\\..\\b', 'a\u0000b', 'a\nb']) {
    assert.match(refusal(`https://example.org/x#v1:${folder}`), 'is no folder inside the repository')
  }
})

test('whatever is taken gives git nothing but a place, a name and a path within', () => {
  const piece = fc.oneof(
    fc.constantFrom(
      ...[
        'https://',
        'git://',
        'ssh://',
        'git@',
        'host',
        ':',
        '/',
        '#',
        '..',
        '-',
        '--',
        '@',
        '::',
        'ext',
        '%0a',
        '%2e',
      ],
      ...['a', '.git', '\n', ' ', '\\', '.', '+', '^', '[', ']', '8', '*', '\u0000', '$', '`', ';', '|', '?'],
    ),
    fc.string(),
  )
  fc.assert(
    fc.property(fc.array(piece, { maxLength: 12 }), (pieces) => {
      const url = pieces.join('')
      let source: ReturnType<typeof parseGitUrl>
      try {
        source = parseGitUrl(url)
      } catch (error) {
        assert.instance(error, MeshError)
        return
      }
      const { repository, ref, folder, scheme } = source
      assert.ok(url.startsWith(repository))
      assert.match(repository, scheme === 'ssh' ? /^(ssh:\/\/|\w[\w.-]*@)/ : new RegExp(`^${scheme}://`))
      assert.not.match(repository, /^-|^\w[\w.-]*@-|^\w+:\/\/([^/]*@)?-|^[\w+.-]+::|[\s\p{C}\\]/u)
      assert.not.match(ref ?? '', /^[-+]|[\s:^~\p{C}]/u)
      assert.ok(!folder.startsWith('/') && !folder.split('/').some((part) => part === '..' || part === '.'))
    }),
    { numRuns: 20_000 },
  )
})

test('a chute is called by the last part that names something, and a password is not shown', () => {
  for (const [url, name] of [
    ['https://example.org/alice/chute.git', 'chute'],
    ['https://example.org/alice/chute/', 'chute'],
    ['git@example.org:chute.git#v1', 'chute'],
    ['https://example.org/x.git#v1:apps/web', 'web'],
  ] as const)
    assert.is(folderNameOf(parseGitUrl(url)), name)
  assert.is(shownUrl('https://alice:secret@example.org/x'), 'https://…@example.org/x')
  assert.not.match(refusal('https://alice:secret@example.org/x#a b'), 'secret')
})

test.run()
