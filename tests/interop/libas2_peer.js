// libas2 as a peer of `make interop`: node libas2_peer.js HOME NODE_MODULES. The three paths of wire.py.
// libas2 composes and opens messages and MDNs; HTTP, files and the MIC of what was sent are done here.
'use strict'
const fs = require('fs')
const http = require('http')
const https = require('https')
const path = require('path')
const crypto = require('crypto')
const [home, modules] = process.argv.slice(2)
const { AS2Composer, AS2Parser, AS2Disposition } = require(path.join(modules, 'libas2'))

const TIMEOUT = 40e3 // milliseconds for an asynchronous MDN
const own = (station, end) => fs.readFileSync(path.join(home, `${station}.own.${end}`), 'utf8')
const file = name => fs.readFileSync(path.join(home, name), 'utf8')
// The gateway's certificate that this side verifies with, or encrypts to.
const theirs = station => file(`${station}.pem`)
const encryptTo = station => fs.existsSync(path.join(home, `${station}.encrypt.pem`)) ? file(`${station}.encrypt.pem`) : theirs(station)
// The kinds of listener, each on a port of its own; the certificates are pinned.
const WEB = ['http', 'https', 'tls1.2', 'tls1.3', 'client-certificate', 'basic']
const CREDENTIALS = 'Basic ' + Buffer.from('gate:secret').toString('base64')
const ports = {}
const inbox = path.join(home, 'in')
fs.mkdirSync(inbox, { recursive: true })
const waiting = new Map()

const unquoted = name => (/^".*"$/.test(name) ? name.slice(1, -1).replace(/\\(.)/g, '$1') : name)
const escaped = name => encodeURIComponent(name).replace(/[!'()*]/g, c => '%' + c.charCodeAt(0).toString(16).toUpperCase())
const digestName = name => name && name.replace(/^sha(\d)/, 'sha-$1')

// Header block and body as one buffer: libas2's own way of joining them would turn bytes into UTF-8.
function whole (rawHeaders, body) {
  let head = ''
  for (let i = 0; i < rawHeaders.length; i += 2) head += `${rawHeaders[i]}: ${rawHeaders[i + 1]}\r\n`
  return Buffer.concat([Buffer.from(head + '\r\n', 'latin1'), body])
}

// The TLS side of a kind of listener, or of a client that uses it.
function tls (web, server) {
  const options = { cert: file('tls.pem'), key: file('tls.pem') }
  if (web === 'tls1.2') options.maxVersion = 'TLSv1.2'
  if (web === 'tls1.3') options.minVersion = 'TLSv1.3'
  if (!server) return { ...(web === 'client-certificate' ? options : { maxVersion: options.maxVersion, minVersion: options.minVersion }), ca: file('gateway-tls.pem') }
  if (web === 'client-certificate') return { ...options, requestCert: true, rejectUnauthorized: true, ca: file('gateway-client.pem') }
  return options
}

function agreement (me, to, wishes) {
  return {
    host: { name: me, id: me, url: wishes.mdnUrl || 'http://127.0.0.1/', certificate: own(to, 'crt'), privateKey: own(to, 'key'),
      decrypt: wishes.decrypt, sign: wishes.sign, mdn: wishes.hostMdn },
    partner: { name: to, id: to, url: wishes.url || 'http://127.0.0.1/', certificate: encryptTo(to), encrypt: wishes.encrypt,
      verify: wishes.verify, mdn: wishes.partnerMdn }
  }
}

function bytes (node) {
  return Buffer.isBuffer(node.content) ? node.content : Buffer.from(node.content || '', 'utf8')
}

async function receive (request, body, via, early) {
  const [me, station] = [unquoted(request.headers['as2-to']), unquoted(request.headers['as2-from'])]
  const facts = { status: 'processed' }
  const node = await AS2Parser.parse(whole(request.rawHeaders, body))
  let inner = node
  if (node.encrypted) inner = await node.decrypt({ cert: own(station, 'crt'), key: own(station, 'key') })
  const signed = inner.signed
  const signedReceipt = /signed-receipt-protocol/.test(request.headers['disposition-notification-options'] || '')
  const agreed = agreement(me, station, { decrypt: node.encrypted, verify: signed, partnerMdn: { signing: signedReceipt ? 'sha-256' : false } })
  agreed.partner.certificate = theirs(station)
  const made = await node.dispositionOut({ agreement: agreed })
  const told = made.disposition.notification.disposition
  if (!told.processed || !made.contentNode) facts.status = JSON.stringify(told)
  const parts = made.contentNode ? (made.contentNode.childNodes.length ? made.contentNode.childNodes : [made.contentNode]) : []
  // The line end before a boundary belongs to the boundary (RFC 2046 §5.1.1); libas2 leaves it with a part.
  const complete = part => !(signed || parts.length > 1) || /base64/i.test(part.getHeader('Content-Transfer-Encoding'))
  const content = Buffer.concat(parts.map(part => complete(part) ? bytes(part) : bytes(part).subarray(0, -2)))
  if (made.contentNode) fs.writeFileSync(path.join(inbox, escaped(me) + '.payload'), content)
  const files = parts.map(part => part.filename || null)
  fs.writeFileSync(path.join(inbox, escaped(me) + '.json'), JSON.stringify({ status: facts.status, signed, encrypted: node.encrypted, files, via }))
  if (!request.headers['disposition-notification-to']) return null
  const mdn = await made.dispositionNode.buildObject()
  const to = request.headers['receipt-delivery-option']
  if (!to) return mdn
  const login = via.web === 'basic' ? { Authorization: CREDENTIALS } : {}
  const once = () => post(to, { ...mdn.headers, ...login }, Buffer.from(mdn.body, 'utf8'), via.web)
  if (early) await once()
  setImmediate(() => once().catch(() => {}))
  return null
}

function post (url, headers, body, web = 'https') {
  return new Promise((resolve, reject) => {
    const secure = url.startsWith('https:')
    const options = { method: 'POST', agent: false, headers: { ...headers, 'Content-Length': body.length }, ...(secure ? tls(web, false) : {}) }
    const request = (secure ? https : http).request(url, options, answer => {
      const got = []
      answer.on('data', piece => got.push(piece))
      answer.on('end', () => resolve({ status: answer.statusCode, headers: answer.headers, raw: answer.rawHeaders, body: Buffer.concat(got) }))
    })
    request.on('error', reject)
    request.end(body)
  })
}

async function send (order) {
  const url = `${order.web === 'http' ? 'http' : 'https'}://127.0.0.1:${ports[order.web]}/mdn`
  const [one] = order.files
  const mdn = order.mdn ? { async: order.mdn === 'async', signing: order.mdn_signed ? digestName(order.sign) || 'sha-256' : false } : undefined
  const ciphers = { '3des': 'des-EDE3-CBC' }
  const encrypt = order.encrypt && (ciphers[order.encrypt] || order.encrypt.replace(/-(cbc|gcm)$/, mode => mode.toUpperCase()))
  const composer = new AS2Composer({
    message: { filename: one.name || undefined, contentType: one.type, content: fs.readFileSync(one.file), contentDisposition: 'attachment' },
    agreement: agreement(order.me, order.to, { mdnUrl: url, url: order.url, sign: digestName(order.sign) || false, encrypt: encrypt || false, hostMdn: mdn })
  })
  const options = await composer.toRequestOptions()
  if (mdn && !order.mdn_signed) delete options.headers['Disposition-Notification-Options']
  let arrived
  if (order.mdn === 'async') {
    arrived = new Promise((resolve, reject) => {
      waiting.set(order.me, resolve)
      setTimeout(() => reject(new Error('no asynchronous MDN came')), TIMEOUT).unref()
    })
  }
  if (order.web === 'basic') options.headers.Authorization = CREDENTIALS
  const once = () => post(order.url, options.headers, Buffer.from(options.body, 'utf8'), order.web)
  let answer = await (order.repeat ? once().catch(once) : once())
  const told = { http: answer.status }
  if (!mdn) return told
  if (arrived) answer = await arrived
  const text = whole(answer.raw, answer.body)
  const node = await AS2Parser.parse(text)
  told.mdn_signed = node.signed
  const report = await node.dispositionIn(node.signed ? { cert: theirs(order.to) } : undefined)
  const disposition = report.notification.disposition
  told.status = disposition.processed ? 'processed' : JSON.stringify(disposition)
  if (disposition.description) told.status = JSON.stringify(disposition)
  const mic = report.notification.receivedContentMic
  told.received_mic = mic
  return told
}

function handle (web, request, answer) {
  const pieces = []
  request.on('data', piece => pieces.push(piece))
  request.on('end', async () => {
    const body = Buffer.concat(pieces)
    const socket = request.socket
    const via = { web }
    if (web !== 'http') Object.assign(via, { tls: socket.getProtocol(), client: Object.keys(socket.getPeerCertificate() || {}).length > 0 })
    let status = 200; let headers = {}; let reply = ''
    try {
      if (web === 'basic' && request.headers.authorization !== CREDENTIALS) {
        status = 401
      } else if (request.url.startsWith('/as2')) {
        const mdn = await receive(request, body, via, request.url.endsWith('?early'))
        if (mdn) { headers = mdn.headers; reply = mdn.body }
      } else if (request.url === '/mdn') {
        waiting.get(unquoted(request.headers['as2-to']))({ status: 200, raw: request.rawHeaders, body })
      } else {
        reply = JSON.stringify(await send(JSON.parse(body)))
      }
    } catch (error) {
      const trouble = String(error && error.stack)
      if (request.url === '/send') reply = JSON.stringify({ trouble })
      else {
        status = 500
        const name = escaped(unquoted(request.headers['as2-to'] || ''))
        fs.writeFileSync(path.join(inbox, name + '.json'), JSON.stringify({ status: 'crash', trouble, via }))
      }
    }
    const out = Buffer.from(reply, 'utf8')
    answer.writeHead(status, { ...headers, 'Content-Length': out.length })
    answer.end(out)
  })
}

async function serve () {
  for (const web of WEB) {
    const listener = (request, answer) => handle(web, request, answer)
    const server = web === 'http' ? http.createServer(listener) : https.createServer(tls(web, true), listener)
    await new Promise(resolve => server.listen(0, '127.0.0.1', resolve))
    ports[web] = server.address().port
  }
  console.log('ready', JSON.stringify(ports))
}
serve()
process.stdin.resume().on('end', () => process.exit(0))
